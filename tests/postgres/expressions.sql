-- Expressions of every kind, each printed by one server and read by another. What is not printed as it was before must mean the same.
create type mood as enum ('a','b'); create type pr as (a int, b varchar);
create table x (i int, b bigint, s smallint, n numeric(10,2), v varchar(20), w varchar, c char(4), t text, d date, ts timestamp, tz timestamptz, iv interval, m mood, p pr, ia int[], va varchar[], ta text[], j jsonb, js json, by bytea, nm name, u uuid, bo bool, r int4range, f float8, bi bit(4), vb varbit(8), ip inet, mo money, ti time(3), f4 real);
create view v1 as select
 v in ('a','b') c1, v not in ('a',t) c2, v = any('{a,b}') c3, v = any(va) c4, v = any('{a,b}'::varchar[]) c5, v like any(array['a','b']::varchar[]) c6, b in (1,2) c7, n in (1,2.5) c8, s in (1,2) c9, f in (1,2) c10,
 m in ('a','b') c11, m::text in ('a','b') c12, c in ('a','b') c13, v in (c, t) c14, array[v,w]::text[] c15, array[v,'x']::varchar[] c16, array[[v],[w]]::text[] c17, coalesce(v,'x') c18, case v when 'a' then 1 else 2 end c19,
 v like 'a%' c20, v ilike 'a' c21, v similar to 'a' c22, nullif(v,'') c23, greatest(v,'b',t) c24, row(i,v) = row(1,'a') c25, (i,v) in ((1,'a'),(2,'b')) c26, (d,iv) overlaps (d,iv) c27, interval '1' day c28, interval '1.5 sec' second(1) c29,
 ts at time zone 'UTC' c30, tz at time zone 'UTC' c31, position('a' in v) c32, overlay(v placing 'x' from 1 for 2) c33, trim(leading 'x' from v) c34, j['a']['b'] c35, ia[1:2] c36, ia[1] c37, (p).a c38, (p).b c39, v between 'a' and 'c' c40,
 v is not distinct from 'a' c41, t is null and not bo c42, bo is true c43, bo is not unknown c44, -i c45, - (-1) c46, 2 ^ -1 c47, i % 2 c48, @ i c49, v::varchar(3) c50, n::numeric(5) c51, 1::bigint c52, '1'::int c53, 1.5::float8 c54,
 c::varchar(3) in ('a','b') c55, cast(v as char(3)) c56, v collate "C" < 'a' c57, (v || w) collate "POSIX" c58, t || 1 c59, v || i c60, d + 1 c61, d - d c62, ts + iv c63, date_trunc('day', tz) c64, extract(epoch from iv) c65, current_date c66, localtimestamp(2) c67, current_user c68,
 j ->> 'a' c69, j @> '{"a":1}' c70, j ? 'a' c71, js #>> '{a,b}' c72, r @> 5 c73, r && int4range(1,2) c74, array_agg(i) over w1 c75, sum(i) filter (where v in ('a','b')) over (partition by v order by i desc nulls last rows between 1 preceding and current row exclude ties) c76, lag(v, 1, 'x') over w1 c77,
 exists (select 1 from x y where y.v = x.v) c78, (select max(i) from x y where y.v in ('a','b')) c79, i = any (select i from x) c80, i > all (select b from x) c81, array(select v from x) c82, xmlelement(name a, v) c83, bi & b'1010' c84, u = '0b1c2d3e-4f5a-6789-abcd-ef0123456789' c85, ip << '10.0.0.0/8' c86, mo > 1::money c87, by || '\xff' c88, nm = 'a' c89, nm in ('a','b') c90,
 format('%s', variadic va) c91, concat(v, i) c92, ti > '12:00' c93, f4 > 1.1 c94, v || 'x' in ('ax','bx') c95, upper(v) in ('A','B') c96, (case when bo then v else w end) in ('a','b') c97, coalesce(v,w) in ('x','y') c98, va = array['a','b']::varchar[] c99, va @> array['a']::varchar[] c100, ta && array[v,w]::text[] c101, va || v c102, ta || array['x', v]::text[] c103, i between symmetric 3 and 1 c104, not (v in ('a','b')) c105, bo = true c106, t ~ '^a' c107, starts_with(v, 'a') c108, vb = b'1' c109
 from x window w1 as (partition by v order by i);
create view v2 as select distinct on (v) x.*, y.i as yi from x left join x y on x.v = y.v and y.w in ('a','b') left join lateral generate_series(1,x.i) g(k) on true where x.v in ('k','l') order by v, x.i;
create view v3 as select v, count(*), grouping(v) from x group by cube (v, i), rollup(w) having count(*) > 1 union all select w, 1, 2 from x intersect select t, 2, 3 from x order by 1 desc nulls first limit 5 offset 2;
create view v4 as with a as materialized (select v from x where w in ('a','b')) select * from a;
create view v5 as select x.v, mode() within group (order by x.w), percentile_disc(array[0.5,0.9]) within group (order by x.i), string_agg(distinct x.v, ',' order by x.v) from x tablesample system (10) group by x.v;
create view v6 as select v as "user", i as "order", t as limit, x.*::text as whole, (x.p).* , row_to_json(x) js2 from x;
create view v7 as select t.* from rows from (generate_series(1,2), unnest(array['a','b']::varchar[])) with ordinality t(a,b,c);
create view v8 as select x.v from x join x y using (v, w) as merged where merged.v in ('a','b') and y.i = 1;
create view v9 as select i from x where v in ('a','b') for share;
create materialized view m1 as select v7.a, v8.v from v7, v8;
alter table x rename column n to number; alter table x rename column v to vee; alter table x add column nu int;
create table k (v varchar check (v in ('a','b') and (v::varchar(3) in ('c') or v in ('d','e','f'))), check (v = any (array['x','y']::varchar(5)[])), q varchar(9)[] default array['a','b']::varchar[], z text[] default array['a'::varchar, 'b'], check ((v, v) in (('a','b'),('c','d'))), exclude using btree (lower(v) with =) where (v in ('a','b')));
create function f1(a varchar default 'x', b text[] default array['a','b']::varchar[], c interval default interval '1 day', variadic d numeric[] default array[1,2]) returns table (x int, y varchar) language sql begin atomic select i, vee from x where vee in ('a','b') or vee = a; insert into x(i, vee) values (1, 'v'), (2, default) on conflict do nothing; update x set (i, b) = (select 1, 2), vee = 'q' where w in ('a','b') returning i, vee; end;
create rule r1 as on insert to v9 do instead insert into x (i, vee) select new.i, 'a' where new.i in (1,2) returning x.i;
create rule r2 as on update to x where old.vee in ('a','b') do also (delete from k where k.v = any (array[old.vee, new.w]::text[]));
create index on x ((vee || w), (coalesce(vee, 'x')), lower(w) varchar_pattern_ops) include (i) where vee in ('a','b') and bo;
create table pp (v varchar, i int) partition by range ((lower(v)), i);
create table pp1 partition of pp for values from ('a', minvalue) to ('b', 5);
create table pl (v varchar(3)) partition by list (v); create table pl1 partition of pl for values in ('a','b');
create policy pol on x for all using (vee in ('a','b') and current_user in ('a','b')) with check (w = any (array['a','b']::varchar[]));
create statistics st on (vee || w), (case when w in ('a','b') then 1 end) from x;
create trigger tr before update on x for each row when (old.vee is distinct from new.vee and new.w in ('a','b')) execute function suppress_redundant_updates_trigger();
create domain dm as varchar default 'q' check (value in ('a','b') and value <> 'c'::varchar);
