# Prints a line for everything of a migration that runs or lies about in a container. Arguments: its UID.
uid=$1
for entry in /proc/[0-9]*; do
  line=$(tr '\0' ' ' <"$entry/cmdline" 2>/dev/null) || continue
  case $line in
    *"pgm/$uid/m/"* | *"pgm.$uid."*) printf 'process %s: %.120s\n' "${entry#/proc/}" "$line" ;;
  esac
done
ls -d /tmp/pgm.$uid.* /dev/shm/pgm.$uid.* /var/run/postgresql/pgm.$uid.* 2>/dev/null
psql -X -Atq -v ON_ERROR_STOP=1 -U postgres -d postgres -v "uid=$uid" <<'SQL'
SELECT 'session ' || pid || ' ' || application_name || ' ' || coalesce(state, '') || ': ' || pg_catalog.left(query, 60)
FROM pg_stat_activity WHERE starts_with(application_name, 'pgm/' || :'uid' || '/m/');
SELECT 'the server crashed and started again' WHERE NOT EXISTS (SELECT FROM canary);
SQL
