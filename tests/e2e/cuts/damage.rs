//! Damaged archives: the bucket's own files are changed behind the server's back, or other objects are put in place of what was
//! sealed. Neither verify nor restore may take them, and the reason must say what it is.

use std::collections::VecDeque;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use pgmigration::archive::keys;
use pgmigration::plan::operation::{Outcome as Said, Reason};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::case::Op;
use super::kind::{Damage, Kind, damages};
use super::lane::{Ended, Lane};
use super::stage::Stage;
use super::trial::{Player, told};
use crate::support::Side;
use crate::support::dice::{Dice, number};

/// A lane with a sealed archive, and an older one of the same database.
pub struct Vault {
    player: Player,
    sealed: PathBuf,
    older: (Vec<u8>, Value),
}

impl Vault {
    pub async fn new(stage: &Arc<Stage>, number: usize) -> Self {
        let mut player = Player::new(Lane::new(stage, number).await);
        let store = &stage.store;
        player.prepare(Op::Verify).await.unwrap();
        let older = fs::read(store.file(&player.lane.key())).unwrap();
        let manifest = serde_json::from_slice(&fs::read(store.file(&keys::manifest(&player.lane.key()))).unwrap()).unwrap();
        player.prepare(Op::Dump).await.unwrap();
        player.prepare(Op::Restore).await.unwrap();
        let sealed = store.scratch().join(format!("sealed-{number}"));
        copy(&store.file(&player.lane.prefix()), &sealed);
        Self { player, sealed, older: (older, manifest) }
    }

    /// Everything in the bucket as it was sealed, attributes too.
    fn restore_bucket(&self) {
        let place = self.player.lane.stage.store.file(&self.player.lane.prefix());
        let _ = fs::remove_dir_all(&place);
        copy(&self.sealed, &place);
    }

    /// Writes a document anew, changed, as a client of the server does.
    async fn tell(&self, key: &str, change: impl FnOnce(&mut Value)) {
        let store = &self.player.lane.stage.store;
        let mut document: Value = serde_json::from_slice(&fs::read(store.file(key)).unwrap()).unwrap();
        change(&mut document);
        let bucket = store.bucket();
        bucket.delete(key).await.unwrap();
        bucket.put_create_only(key, Bytes::from(document.to_string()), "application/json").await.unwrap();
    }

    async fn damage(&self, damage: &Damage) {
        let store = &self.player.lane.stage.store;
        let (key, prefix) = (self.player.lane.key(), self.player.lane.prefix());
        let (archive, manifest, seal) =
            (store.file(&key), store.file(&keys::manifest(&key)), store.file(&keys::run_manifest(&prefix)));
        if damage.op == Op::Verify {
            fs::remove_file(&seal).unwrap();
        }
        let mut dice = Dice::new(damage.seed.wrapping_mul(1_000_003).wrapping_add(damage.number));
        dice.next();
        let mut bytes = fs::read(&archive).unwrap();
        let whole = bytes.len();
        match damage.kind {
            Kind::Bit => bytes[dice.below(whole)] ^= 1 << dice.below(8),
            Kind::BitInContents => bytes[5 + dice.below(2000)] ^= 1 << dice.below(8),
            Kind::Bytes => {
                let at = dice.below(whole - 8);
                bytes[at..at + 8].iter_mut().for_each(|b| *b ^= 0x5a);
            }
            Kind::Cut => bytes.truncate(dice.below(whole)),
            Kind::LastByte => bytes.truncate(whole - 1),
            Kind::Longer => bytes.push(0),
            Kind::Empty => bytes.clear(),
            Kind::OlderInPlace => bytes.clone_from(&self.older.0),
            Kind::OlderUploaded | Kind::OlderWithManifest => {
                let bucket = store.bucket();
                bucket.delete(&key).await.unwrap();
                let mut writer = bucket.writer(&key).await.unwrap();
                writer.write(&self.older.0).await.unwrap();
                let written = writer.complete().await.unwrap();
                if damage.kind == Kind::OlderWithManifest {
                    let mut document = self.older.1.clone();
                    document["etag"] = json!(written.etag);
                    bucket.delete(&keys::manifest(&key)).await.unwrap();
                    let text = Bytes::from(document.to_string());
                    bucket.put_create_only(&keys::manifest(&key), text, "application/json").await.unwrap();
                }
                return;
            }
            Kind::ManifestUid => {
                self.tell(&keys::manifest(&key), |d| d["migrationUid"] = json!("0d9b2b9e-6f5e-4f43-9d5c-3a0c9d1f4b11")).await
            }
            Kind::ManifestRun => self.tell(&keys::manifest(&key), |d| d["run"] = json!("20200101_000000")).await,
            Kind::ManifestSha => self.tell(&keys::manifest(&key), |d| d["sha256"] = json!("a".repeat(64))).await,
            Kind::ManifestBytes => self.tell(&keys::manifest(&key), |d| d["bytes"] = json!(whole + 1)).await,
            Kind::ManifestExtension => self.tell(&keys::manifest(&key), |d| d["extensions"][0]["schema"] = json!("public")).await,
            Kind::ManifestRot => {
                let text = fs::read_to_string(&manifest).unwrap();
                fs::write(&manifest, text.replacen("PostgreSQL", "PostgreSQM", 1)).unwrap();
            }
            Kind::ManifestGarbage => fs::write(&manifest, b"{\"version\": 1, ").unwrap(),
            Kind::ManifestVersion => self.tell(&keys::manifest(&key), |d| d["version"] = json!(2)).await,
            Kind::NoObject => return fs::remove_file(&archive).unwrap(),
            Kind::NoManifest => fs::remove_file(&manifest).unwrap(),
            Kind::NoSeal => fs::remove_file(&seal).unwrap(),
            Kind::OtherSeal => {
                self.tell(&keys::run_manifest(&prefix), |d| d["databases"][0]["sha256"] = json!("b".repeat(64))).await
            }
        }
        // In place: the attributes of the file stay.
        fs::write(&archive, bytes).unwrap();
    }

    /// Plays one damage. `Ok` tells whether the target was still untouched when the archive was refused, and the verdict.
    pub async fn play(&mut self, damage: &Damage) -> Result<(bool, String), String> {
        self.restore_bucket();
        if damage.op == Op::Restore {
            self.player.lane.create_staging().await;
        }
        self.damage(damage).await;
        let lane = &mut self.player.lane;
        let ended = lane.run(lane.task(damage.op, damage.number.is_multiple_of(2))).await;
        let said = told(&ended);
        refused(&ended)?;
        let beside = fs::read_dir(self.player.lane.stage.store.file(&self.player.lane.key()).parent().unwrap()).unwrap();
        for file in beside {
            let name = file.unwrap().file_name().into_string().unwrap();
            let sealed = damage.op == Op::Verify && name == "run.manifest.json";
            if name.contains(".restore.") || sealed {
                return Err(format!("it says {said}, and yet {name} was written"));
            }
        }
        let count = "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace";
        let tables = match damage.op {
            Op::Restore => self.player.lane.stage.sql(Side::New, &self.player.lane.staging, count).await,
            Op::Dump | Op::Verify | Op::Compare => "0".into(),
        };
        Ok((tables == "0", said))
    }

    /// The undamaged archive is taken.
    pub async fn play_sound(&mut self) {
        self.restore_bucket();
        self.player.prepare(Op::Restore).await.unwrap();
        self.player.sound(Op::Restore, false).await.unwrap();
    }
}

fn refused(ended: &Ended) -> Result<(), String> {
    let Some(verdict) = &ended.verdict else { return Err(format!("{}\n{}", told(ended), ended.log)) };
    let named = matches!(verdict.reason, Reason::ArchiveDamaged | Reason::ArchiveAbsent | Reason::ArchiveOccupied);
    match verdict.outcome {
        Said::Succeeded => Err(format!("it was taken: {verdict:?}")),
        Said::Failed if named && ended.code == Some(verdict.exit_status() as i32) => Ok(()),
        Said::Failed => Err(format!("the reason does not name the damage: {verdict:?}")),
    }
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(status.success());
}

/// What came of a damage.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Refusal {
    pub damage: Damage,
    /// Whether the target was untouched; `None` when the damage was not refused as promised.
    pub untouched: Option<bool>,
    pub said: String,
}

/// Plays damages on `lanes` and tells each as it ends.
pub async fn play(
    stage: &Arc<Stage>,
    damages: &[Damage],
    lanes: usize,
    told: impl Fn(&Refusal) + Send + Sync + 'static,
) -> Vec<Refusal> {
    let queue = Arc::new(Mutex::new(damages.iter().copied().collect::<VecDeque<_>>()));
    let (told, done) = (Arc::new(told), Arc::new(Mutex::new(Vec::new())));
    let tasks: Vec<_> = (0..lanes)
        .map(|lane| {
            let (stage, queue, told, done) = (Arc::clone(stage), Arc::clone(&queue), Arc::clone(&told), Arc::clone(&done));
            tokio::spawn(async move {
                let mut vault = Vault::new(&stage, 50 + lane).await;
                loop {
                    let Some(damage) = queue.lock().unwrap().pop_front() else { break };
                    let (untouched, said) = match vault.play(&damage).await {
                        Ok((untouched, said)) => (Some(untouched), said),
                        Err(why) => (None, why),
                    };
                    let refusal = Refusal { damage, untouched, said };
                    told(&refusal);
                    done.lock().unwrap().push(refusal);
                }
                vault.play_sound().await;
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    std::mem::take(&mut *done.lock().unwrap())
}

/// One line for a damage.
pub fn line(refusal: &Refusal) -> String {
    let how = match refusal.untouched {
        Some(true) => "Refused, target untouched",
        Some(false) => "Refused, part in staging ",
        None => "NOT REFUSED",
    };
    format!("{how}  {}  {}", serde_json::to_string(&refusal.damage).unwrap(), refusal.said)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_archive_is_refused_by_name() {
    let (seed, count) = (number("PGM_SEED", 1), number("PGM_DAMAGES", 39));
    let stage = Stage::new("damage", super::ROWS).await;
    let all = match std::env::var("PGM_DAMAGE") {
        Ok(text) => vec![serde_json::from_str(&text).unwrap()],
        Err(_) => damages(seed, count),
    };
    let done = play(&stage, &all, 2, |refusal| println!("{}", line(refusal))).await;
    let bad: Vec<String> = done.iter().filter(|r| r.untouched.is_none()).map(line).collect();
    let untouched = done.iter().filter(|r| r.untouched == Some(true)).count();
    println!(
        "seed {seed}: {} damages, {} refused, {untouched} of them before the target was touched",
        done.len(),
        done.len() - bad.len()
    );
    assert!(bad.is_empty(), "{} damages were not refused; PGM_DAMAGE plays one again:\n{}", bad.len(), bad.join("\n"));
    stage.end().await;
}
