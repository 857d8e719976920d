//! What the runbook tells a person to do by hand, from wherever an operator may have stopped: never more than an undo would do,
//! and the same once more changes nothing.

use std::path::Path;
use std::sync::Arc;

use pgmigration::postgres::admin::AdminSessions;
use pgmigration::postgres::fence::{Fence, FenceNames, originals};
use pgmigration::postgres::publish::{Publication, PublishNames, plan};

use crate::cluster::{Cluster, SOON, servers};
use crate::fence::picture;
use crate::runbook::{COPY, FENCE, NAME, TOMBSTONE, by_hand};

const LONE_NAME: &str = "Where the target had no such database before";

const UID: &str = "0b1c2d3e-4f5a-6789-abcd-ef0123456789";

async fn admins(cluster: &Cluster) -> AdminSessions {
    let carrier = Arc::new(cluster.carrier("postgres").with_name("pgmigration/test/by-hand"));
    AdminSessions::open(carrier, "postgres", SOON).await.unwrap()
}

fn start(bin: &Path) -> Cluster {
    let cluster = Cluster::start(bin, &[]);
    cluster.sql("postgres", "CREATE DATABASE app CONNECTION LIMIT 60");
    cluster.sql("app", "CREATE TABLE public.old (i int4)");
    cluster
}

fn has(cluster: &Cluster, name: &str) -> bool {
    cluster.sql("postgres", &format!("SELECT count(*) FROM pg_database WHERE datname = '{name}'")) == "1"
}

#[tokio::test]
async fn a_fence_is_opened_wherever_it_stands() {
    for bin in servers() {
        let cluster = start(&bin);
        let before = picture(&cluster);
        for (raised, lifted) in [(0, 0), (1, 0), (2, 0), (3, 0), (3, 1), (3, 2)] {
            let mut admins = admins(&cluster).await;
            let names = FenceNames::derive("app", UID);
            let fence =
                Fence { names: names.clone(), originals: originals(&mut admins, "app").await.unwrap(), comment: "closed".into() };
            for _ in 0..raised {
                fence.raise_step(&mut admins, SOON).await.unwrap();
            }
            // What a mover may have left.
            let session = if has(&cluster, &names.fenced) { Some(cluster.session(&names.fenced).await) } else { None };
            for _ in 0..lifted {
                fence.lift_step(&mut admins, SOON).await.unwrap();
            }
            admins.close().await;
            for _ in 0..2 {
                cluster.sql("postgres", &by_hand(FENCE, "app", UID));
                if has(&cluster, &names.tombstone) {
                    cluster.sql("postgres", &by_hand(TOMBSTONE, "app", UID));
                }
            }
            drop(session);
            assert_eq!(picture(&cluster), before, "raised {raised}, lifted {lifted}");
        }
    }
}

#[tokio::test]
async fn a_source_under_a_name_that_somebody_took_is_left_alone() {
    for bin in servers() {
        let cluster = start(&bin);
        let mut admins = admins(&cluster).await;
        let names = FenceNames::derive("app", UID);
        let fence =
            Fence { names: names.clone(), originals: originals(&mut admins, "app").await.unwrap(), comment: "closed".into() };
        fence.raise(&mut admins, SOON).await.unwrap();
        admins.close().await;
        cluster.sql("postgres", "ALTER DATABASE app IS_TEMPLATE false; DROP DATABASE app; CREATE DATABASE app");
        let before = picture(&cluster);
        let script = by_hand(FENCE, "app", UID);
        let refused = format!("DO $do$ BEGIN EXECUTE $sql${script}$sql$; EXCEPTION WHEN raise_exception THEN NULL; END $do$");
        cluster.sql("postgres", &refused);
        assert_eq!(picture(&cluster), before);
        assert!(has(&cluster, &names.fenced));
    }
}

#[tokio::test]
async fn a_former_target_has_its_name_again_wherever_publishing_stands() {
    for bin in servers() {
        let cluster = start(&bin);
        let before = picture(&cluster);
        for (published, withdrawn) in [(0, 0), (1, 0), (2, 0), (2, 1), (2, 2)] {
            let names = PublishNames::derive("app", UID);
            cluster.sql("postgres", &format!("CREATE DATABASE {}", names.staging));
            let mut admins = admins(&cluster).await;
            let publication: Publication = plan(&mut admins, names.clone()).await.unwrap();
            for _ in 0..published {
                publication.publish_step(&mut admins, SOON).await.unwrap();
            }
            for _ in 0..withdrawn {
                publication.withdraw_step(&mut admins, SOON).await.unwrap();
            }
            let in_the_way = if (published, withdrawn) == (2, 0) { Some(cluster.session("app").await) } else { None };
            admins.close().await;
            for _ in 0..2 {
                cluster.sql("postgres", &by_hand(NAME, "app", UID));
            }
            drop(in_the_way);
            cluster.sql("app", "SELECT * FROM public.old");
            cluster.sql("postgres", &by_hand(COPY, "app", UID));
            assert_eq!(picture(&cluster), before, "published {published}, withdrawn {withdrawn}");
        }
    }
}

#[tokio::test]
async fn a_new_name_leaves_nothing_behind_where_there_was_no_former_target() {
    for bin in servers() {
        let cluster = start(&bin);
        cluster.sql("postgres", "DROP DATABASE app");
        let before = picture(&cluster);
        for published in [0, 2] {
            let names = PublishNames::derive("app", UID);
            cluster.sql("postgres", &format!("CREATE DATABASE {}", names.staging));
            let mut admins = admins(&cluster).await;
            let publication: Publication = plan(&mut admins, names).await.unwrap();
            for _ in 0..published {
                publication.publish_step(&mut admins, SOON).await.unwrap();
            }
            admins.close().await;
            cluster.sql("postgres", &by_hand(NAME, "app", UID));
            if published > 0 {
                cluster.sql("postgres", &by_hand(LONE_NAME, "app", UID));
            }
            cluster.sql("postgres", &by_hand(COPY, "app", UID));
            assert_eq!(picture(&cluster), before, "published {published}");
        }
    }
}
