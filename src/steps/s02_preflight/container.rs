//! What the container of a server holds: tools, room on its data volume, locales. Asked by short constant scripts.

use kube::Client;

use crate::api::{PinnedEnd, Side};
use crate::kubernetes::exec::{self as process, ExecErrorKind};
use crate::plan::Failure;
use crate::plan::checks::servers::Tools;
use crate::postgres::versions::Version;
use crate::steps::context::{Context, SHORT, exec};

/// Prints the versions of the tools that are there, and the utilities of the transfer that are not.
const TOOLS: &str = r#"for tool in psql pg_dump pg_restore; do
  if command -v "$tool" >/dev/null 2>&1; then printf '%s %s\n' "$tool" "$("$tool" --version 2>/dev/null)"; fi
done
for utility in mktemp mkfifo tee dd wc sha256sum cat rm kill tr sleep; do
  command -v "$utility" >/dev/null 2>&1 || printf 'lacking %s\n' "$utility"
done"#;

/// Prints the KiB that are free where the data are, and the locales of the system if it can tell.
const SYSTEM: &str = r#"folder=$1
[ -n "$folder" ] || folder=${PGDATA:-/var/lib/postgresql/data}
df -Pk "$folder" 2>/dev/null | { read -r header && read -r volume size used free rest && printf 'free %s\n' "$free"; }
if command -v locale >/dev/null 2>&1; then
  printf 'locales\n'
  locale -a 2>/dev/null | while IFS= read -r name; do printf 'locale %s\n' "$name"; done
fi
true"#;

async fn script(client: &Client, side: Side, end: &PinnedEnd, script: &str, argument: &str) -> Result<Option<String>, Failure> {
    let argv: Vec<String> = ["sh", "-c", script, "sh", argument].map(String::from).into();
    match process::run(client, &Context::exec_target(end), &argv, b"", SHORT, 1 << 20).await {
        Ok(done) => Ok(Some(String::from_utf8_lossy(&done.stdout).into_owned())),
        // The container has not even a shell.
        Err(e) if e.kind == ExecErrorKind::Runtime => Ok(None),
        Err(e) => Err(exec(side, &e)),
    }
}

/// The tools of a container.
pub async fn tools(client: &Client, side: Side, end: &PinnedEnd) -> Result<Tools, Failure> {
    Ok(match script(client, side, end, TOOLS, "").await? {
        Some(text) => read_tools(&text),
        None => Tools { lacking: vec!["sh".into()], ..Tools::default() },
    })
}

fn read_tools(text: &str) -> Tools {
    let mut tools = Tools::default();
    for (word, rest) in text.lines().filter_map(|line| line.split_once(' ')) {
        match word {
            "psql" => tools.psql = Version::from_tool(rest),
            "pg_dump" => tools.dump = Version::from_tool(rest),
            "pg_restore" => tools.restore = Version::from_tool(rest),
            "lacking" => tools.lacking.push(rest.to_owned()),
            _ => {}
        }
    }
    tools
}

/// What the system in a container has.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct System {
    /// Bytes free where the data are; absent when it cannot tell.
    pub free: Option<u64>,
    /// Its locales; absent when it cannot tell.
    pub locales: Option<Vec<String>>,
}

/// The system in a container. `data`: the server's data directory; empty when it is not known.
pub async fn system(client: &Client, side: Side, end: &PinnedEnd, data: &str) -> Result<System, Failure> {
    Ok(script(client, side, end, SYSTEM, data).await?.map_or_else(System::default, |text| read_system(&text)))
}

fn read_system(text: &str) -> System {
    let mut system = System::default();
    for line in text.lines() {
        match line.split_once(' ') {
            Some(("free", kib)) => system.free = kib.parse::<u64>().ok().map(|kib| kib.saturating_mul(1024)),
            Some(("locale", name)) => system.locales.get_or_insert_default().push(name.to_owned()),
            None if line == "locales" => system.locales = Some(Vec::new()),
            Some(_) | None => {}
        }
    }
    system
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn run(script: &str, argument: &str, path: Option<&str>) -> String {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script, "sh", argument]);
        if let Some(path) = path {
            command.env("PATH", path);
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn an_empty_container_lacks_everything() {
        let tools = read_tools(&run(TOOLS, "", Some("/nonexistent")));
        assert_eq!((tools.psql, tools.dump, tools.restore), (None, None, None));
        assert!(tools.lacking.contains(&"mkfifo".to_owned()) && tools.lacking.contains(&"sha256sum".to_owned()), "{tools:?}");
    }

    #[test]
    fn tools_and_their_versions_are_found() {
        let folder = std::env::temp_dir().join(format!("pgmigration-tools-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        for tool in ["psql", "pg_dump"] {
            let path = folder.join(tool);
            std::fs::write(&path, format!("#!/bin/sh\necho '{tool} (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)'\n")).unwrap();
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        }
        let tools = read_tools(&run(TOOLS, "", Some(&format!("{}:/usr/bin:/bin", folder.display()))));
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!((tools.psql, tools.dump), (Some(Version(150_018)), Some(Version(150_018))));
        assert_eq!(tools.lacking, Vec::<String>::new());
    }

    #[test]
    fn room_and_locales_are_read() {
        let system = read_system(&run(SYSTEM, "/", None));
        assert!(system.free.is_some_and(|bytes| bytes > 0), "{system:?}");
        assert!(system.locales.is_some_and(|all| all.iter().any(|name| name == "POSIX")));
        assert_eq!(read_system(&run(SYSTEM, "/nonexistent", Some("/nonexistent"))), System::default());
    }
}
