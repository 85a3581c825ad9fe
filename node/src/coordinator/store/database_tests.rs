//! The database as an admin may find it: down, full, newer, damaged, behind another password; and what is kept through all of it.

use std::collections::BTreeMap;

use sqlx::{Executor as _, Row as _};
use upswarm_protocol::report::{BytesBySource, DeploymentState, SubState};
use upswarm_protocol::time::Wall;

use super::database::{Database, DatabaseError, Place, Session};
use super::ledger_tests::{deployment, device, group, release, said};
use super::old_log::tests::file;
use super::postgres::{PASSWORD, Postgres};
use super::told::{self, Kind, Told};
use super::{Open, Rows};

fn told_by(number: u8, at: u64) -> super::Said {
    let one = deployment((group(1), release(number)), DeploymentState::Installed, SubState::None);
    said(vec![one], Wall(at), BytesBySource::default())
}

fn told_rows(told: BTreeMap<super::Key, Option<Vec<u8>>>) -> Rows {
    Rows { told, ..Rows::default() }
}

async fn open_error(place: &Place) -> anyhow::Error {
    match Session::open(place).await {
        Ok(_) => panic!("{place:?} was opened"),
        Err(error) => error,
    }
}

fn text(error: &anyhow::Error) -> String {
    let text = format!("{error:#} {error:?}");
    assert!(!text.contains(PASSWORD) && !text.contains("p%40ss") && !text.contains("wrong one"), "{text}");
    text
}

#[tokio::test]
async fn what_the_old_file_holds_is_imported_once_and_put_aside() {
    let dir = tempfile::tempdir().unwrap();
    let (old, server) = (dir.path().join("told"), Postgres::start());
    let mut places = vec![Place::File(dir.path().join("fleet.db"))];
    places.extend(server.as_ref().map(Postgres::place));
    for place in places {
        let (status, inventory) = (told_by(1, 5), b"an inventory".to_vec());
        let records = [
            ((device(1), Kind::Status), status.to_bytes()),
            ((device(1), Kind::Inventory), inventory.clone()),
            ((device(2), Kind::Scan), b"a scan".to_vec()),
            ((device(3), Kind::Status), b"{damaged".to_vec()),
        ];
        let records: Vec<_> = records.iter().map(|(key, bytes)| (*key, bytes.as_slice())).collect();
        std::fs::write(&old, file(&records)).unwrap();
        for round in 0..2 {
            let told = Told::load(&place, &old).await.unwrap();
            assert_eq!(told.said.get(&device(1)), Some(&status), "round {round}");
            assert_eq!((told.said.len(), told.inventories.clone()), (1, vec![(device(1), inventory.clone())]));
            assert_eq!(told.scans, [(device(2), b"a scan".to_vec())]);
            assert!(!old.exists() && old.with_extension("imported").exists());
        }
        // What came later is not undone by an old file that lies there again.
        let mut open = Open::new(&place).await.unwrap();
        let newer = told_by(1, 9);
        let records =
            BTreeMap::from([((device(1), Kind::Status), Some(told::status(&newer))), ((device(2), Kind::Scan), None)]);
        open.commit(told_rows(records)).await.unwrap();
        open.session.close().await;
        std::fs::write(&old, file(&records_of(&status))).unwrap();
        let told = Told::load(&place, &old).await.unwrap();
        assert_eq!((told.said.get(&device(1)), told.scans.len()), (Some(&newer), 0));
    }
}

fn records_of(status: &super::Said) -> Vec<(super::Key, &'static [u8])> {
    let bytes: &'static [u8] = Box::leak(status.to_bytes().into_boxed_slice());
    vec![((device(1), Kind::Status), bytes)]
}

#[tokio::test]
async fn a_file_that_cannot_be_used_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fleet.db");
    std::fs::write(&path, "this is no database, and long enough to be taken for one".repeat(40)).unwrap();
    let error = text(&open_error(&Place::File(path)).await);
    assert!(error.contains("damaged") && error.contains("Restore it from a backup"), "{error}");

    let path = dir.path().join("newer.db");
    let mut session = Session::open(&Place::File(path.clone())).await.unwrap();
    session.connection.execute("INSERT INTO schema_version (version) VALUES (1000)").await.unwrap();
    session.close().await;
    let error = open_error(&Place::File(path)).await;
    assert!(matches!(error.downcast_ref(), Some(DatabaseError::Newer { found: 1000, .. })), "{error:#}");
    assert!(text(&error).contains("newer upswarm"), "{error:#}");

    let gone = Place::File(dir.path().join("none/fleet.db"));
    assert!(text(&open_error(&gone).await).contains("creating"));
}

/// A database that may not grow any more stands for a disk that is full: SQLite reports both alike.
#[tokio::test]
async fn a_full_disk_loses_nothing_and_goes_on_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let place = Place::File(dir.path().join("fleet.db"));
    let mut open = Open::new(&place).await.unwrap();
    let row = |number: u8, size: usize| ((device(number), Kind::Inventory), Some(vec![number; size]));
    open.commit(told_rows(BTreeMap::from([row(1, 10)]))).await.unwrap();
    let pages: i64 = sqlx::query("PRAGMA page_count").fetch_one(&mut open.session.connection).await.unwrap().get(0);
    let bound = format!("PRAGMA max_page_count = {pages}");
    open.session.connection.execute(bound.as_str()).await.unwrap();
    let failed = open.commit(told_rows(BTreeMap::from([row(2, 1 << 20)]))).await.unwrap_err();
    let failed = open.session.explain(failed);
    assert!(matches!(failed, DatabaseError::Full { .. }), "{failed}");
    assert!(failed.to_string().contains("Free space"), "{failed}");
    drop(open);
    let mut open = Open::new(&place).await.unwrap();
    open.commit(told_rows(BTreeMap::from([row(2, 1 << 20)]))).await.unwrap();
    open.session.close().await;
    let told = Told::load(&place, &dir.path().join("told")).await.unwrap();
    assert_eq!(told.inventories.iter().map(|(_, bytes)| bytes.len()).collect::<Vec<_>>(), [10, 1 << 20]);
}

#[tokio::test]
async fn a_copy_is_whole_while_batches_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let place = Place::File(dir.path().join("fleet.db"));
    let mut open = Open::new(&place).await.unwrap();
    for number in 0..20 {
        open.commit(told_rows(BTreeMap::from([((device(number), Kind::Inventory), Some(vec![number; 50_000]))])))
            .await
            .unwrap();
    }
    let database = Database::readers(place.clone()).unwrap();
    let path = dir.path().join("a copy's place.db");
    let copy = database.copy_to(&path);
    let writes = async {
        for number in 20..40 {
            let row = ((device(number), Kind::Inventory), Some(vec![number; 50_000]));
            open.commit(told_rows(BTreeMap::from([row]))).await.unwrap();
        }
    };
    let (copied, ()) = tokio::join!(copy, writes);
    copied.unwrap();
    let told = Told::load(&Place::File(path.clone()), &dir.path().join("told")).await.unwrap();
    assert!((20..=40).contains(&told.inventories.len()), "{}", told.inventories.len());
    assert!(database.copy_to(&path).await.is_err(), "it takes no file's place");
    let mut session = Session::open(&Place::File(path)).await.unwrap();
    let sound = sqlx::query("PRAGMA integrity_check").fetch_one(&mut session.connection).await.unwrap();
    assert_eq!(sound.get::<String, _>(0), "ok");
    database.close().await;
}

#[tokio::test]
async fn postgresql_that_is_down_taken_or_locked_says_so_and_keeps_what_it_was_given() {
    let Some(mut server) = Postgres::start() else { return };
    let wrong = Place::named(&server.url("postgres"), Some("wrong one")).unwrap();
    let error = open_error(&wrong).await;
    assert!(matches!(error.downcast_ref(), Some(DatabaseError::Password { .. })), "{error:#}");
    assert!(text(&error).contains("UPSWARM_DATABASE_PASSWORD"));
    let missing = Place::named(&server.url("nothing"), Some(PASSWORD)).unwrap();
    let error = open_error(&missing).await;
    assert!(matches!(error.downcast_ref(), Some(DatabaseError::Missing { .. })), "{error:#}");

    let mut open = Open::new(&server.place_by_socket()).await.unwrap();
    let row = |number: u8| ((device(number), Kind::Inventory), Some(vec![number; 100]));
    open.commit(told_rows(BTreeMap::from([row(1)]))).await.unwrap();
    let error = open_error(&server.place()).await;
    assert!(matches!(error.downcast_ref(), Some(DatabaseError::InUse { .. })), "{error:#}");

    server.stop();
    let failed = open.commit(told_rows(BTreeMap::from([row(2)]))).await.unwrap_err();
    let failed = open.session.explain(failed);
    assert!(matches!(failed, DatabaseError::Down { .. }), "{failed}");
    drop(open);
    let error = open_error(&server.place()).await;
    assert!(matches!(error.downcast_ref(), Some(DatabaseError::Down { .. })), "{error:#}");
    assert!(text(&error).contains("Start it"), "{error:#}");
    server.start_again();
    let mut open = Open::new(&server.place()).await.unwrap();
    open.commit(told_rows(BTreeMap::from([row(2)]))).await.unwrap();
    open.session.close().await;
    let told = Told::load(&server.place(), std::path::Path::new("/nonexistent/told")).await.unwrap();
    assert_eq!(told.inventories.len(), 2, "nothing that was acknowledged is lost");
}
