//! Every question, against databases that hold something to find.

use pgmigration::postgres::catalog;

use crate::cluster::{Cluster, servers};

/// A database with at least one of everything that the questions look for.
const TORTURE: &str = include_str!("torture.sql");

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|&name| name.to_owned()).collect()
}

#[tokio::test]
async fn questions_find_what_is_there() {
    for bin in servers() {
        let cluster = Cluster::start(&bin, &[]);
        cluster.sql("postgres", "CREATE DATABASE app");
        cluster.sql("app", TORTURE);
        let mut admin = cluster.session("postgres").await;
        let mut app = cluster.session("app").await;

        let server = catalog::server(&mut *app).await.unwrap();
        assert_eq!(server.version.major(), cluster.major());
        println!("{server:#?}");
        println!("{:#?}", catalog::databases(&mut *admin).await.unwrap());
        let database = catalog::database(&mut *admin, "app").await.unwrap().unwrap();
        println!("{database:#?}");
        println!("{:#?}", catalog::database_settings(&mut *admin, database.oid).await.unwrap());
        println!("{:#?}", catalog::inventory(&mut *app).await.unwrap());
        println!("{:#?}", catalog::extensions(&mut *app).await.unwrap());
        println!("{:#?}", catalog::available_extensions(&mut *app, &names(&["plpgsql", "nonesuch"])).await.unwrap());
        println!("{:#?}", catalog::roles(&mut *admin, &names(&["owner", "postgres", "nobody"])).await.unwrap());
        let uses = catalog::role_uses(&mut *app).await.unwrap();
        assert!(uses.iter().any(|one| one.owns > 0), "{uses:?}");
        assert!(uses.iter().all(|one| one.owns + one.granted > 0), "{uses:?}");
        let system = catalog::system(&mut *admin).await.unwrap();
        assert!(std::path::Path::new(system.data_directory.as_ref().unwrap()).is_absolute(), "{system:?}");
        assert!(system.locales.iter().any(|one| one == "C"), "{system:?}");
        println!("{:#?}", catalog::alembic_versions(&mut *app).await.unwrap());
        println!("{:#?}", catalog::prepared_transactions(&mut *admin, "app").await.unwrap());
        println!("{:#?}", catalog::sessions(&mut *admin, database.oid, "").await.unwrap());
        println!("{:#?}", catalog::index_builds(&mut *admin, database.oid).await.unwrap());
        println!("{:#?}", catalog::subscriptions(&mut *admin, database.oid).await.unwrap());
        println!("{:#?}", catalog::replication_slots(&mut *admin, "app").await.unwrap());
        println!("{:#?}", catalog::standbys(&mut *admin, None).await.unwrap());
        println!("{:#?}", catalog::event_triggers(&mut *app).await.unwrap());
        println!("{:#?}", catalog::database_name_uses(&mut *app).await.unwrap());
        println!("{:#?}", catalog::search_path_uses(&mut *app).await.unwrap());
        println!("{:#?}", catalog::hba_lines(&mut *admin, "app").await.unwrap());
        println!("{:#?}", catalog::witness(&mut *app).await.unwrap());
    }
}
