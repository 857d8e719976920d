//! One case on one lane: bring the migration to where the operation is due, cut it, and judge what it said and what it left.

use std::fs;
use std::time::{Duration, Instant};

use pgmigration::archive::manifest::{DatabaseManifest, RunManifest};
use pgmigration::archive::{Sha256, keys};
use pgmigration::plan::operation::{Outcome as Said, Reason};
use serde::{Deserialize, Serialize};

use super::case::{Case, OPS, Op};
use super::lane::{BOUND, Ended, Lane};
use crate::support::Side;

/// Within this time after a clean-up, or after the next attempt, nothing may be left.
pub const TIDY: Duration = Duration::from_secs(60);

/// What a case came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Outcome {
    /// As promised.
    Held,
    /// As promised, but the operation did not come by the place of the fault.
    NotStruck,
    /// Success was said of something that is not whole.
    FalseSuccess,
    /// Something ran or lay about after the clean-up.
    Orphans,
    /// The operation came to no end.
    Hung,
    /// Something else is not as promised.
    Failed,
}

/// What came of a case, for its line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Trial {
    pub outcome: Outcome,
    /// The verdict of the operation that was cut.
    pub said: String,
    /// How long it took, and how long after the clean-up something was still there; seconds.
    pub took: f64,
    pub tidied: f64,
    pub why: String,
}

type Bad = (Outcome, String);

fn bad<T>(outcome: Outcome, why: impl Into<String>) -> Result<T, Bad> {
    Err((outcome, why.into()))
}

/// A lane with a migration that has come so far.
pub struct Player {
    pub lane: Lane,
    /// Operations done, in their order.
    level: usize,
}

impl Player {
    pub fn new(lane: Lane) -> Self {
        Self { lane, level: 0 }
    }

    /// Brings the migration to where `op` is due, over a sound network.
    pub async fn prepare(&mut self, op: Op) -> Result<(), Bad> {
        let due = OPS.iter().position(|o| *o == op).unwrap();
        let store = &self.lane.stage.store;
        if due == 0 {
            let _ = fs::remove_dir_all(store.file(&self.lane.prefix()));
        }
        if due == 1 {
            let _ = fs::remove_file(store.file(&keys::run_manifest(&self.lane.prefix())));
        }
        self.level = self.level.min(due);
        while self.level < due {
            let next = OPS[self.level];
            if next == Op::Restore {
                self.fresh_staging().await;
            }
            self.sound(next, false).await?;
        }
        if op == Op::Restore {
            self.fresh_staging().await;
        }
        Ok(())
    }

    /// An empty staging database, and no word of an earlier one.
    async fn fresh_staging(&self) {
        self.lane.create_staging().await;
        let archive = self.lane.stage.store.file(&self.lane.key());
        let (folder, name) = (archive.parent().unwrap(), archive.file_name().unwrap().to_str().unwrap().to_owned());
        for file in fs::read_dir(folder).into_iter().flatten().flatten() {
            if file.file_name().to_str().is_some_and(|n| n.starts_with(&format!("{name}.restore."))) {
                fs::remove_file(file.path()).unwrap();
            }
        }
    }

    /// Runs an operation that nothing disturbs: it must succeed.
    pub async fn sound(&mut self, op: Op, differ: bool) -> Result<(), Bad> {
        let ended = self.lane.run(self.lane.task(op, false)).await;
        if self.judge(op, differ, &ended).await? {
            self.level = OPS.iter().position(|o| *o == op).unwrap() + 1;
            return Ok(());
        }
        bad(Outcome::Failed, format!("{op:?} fails on a sound network: {}\n{}", told(&ended), ended.log))
    }

    /// Whether the operation has done its work, and said so. Success that is none is found here.
    async fn judge(&self, op: Op, differ: bool, ended: &Ended) -> Result<bool, Bad> {
        let Some(code) = ended.code else {
            return bad(Outcome::Hung, format!("{op:?} did not end within {} s\n{}", BOUND.as_secs(), ended.log));
        };
        let Some(verdict) = &ended.verdict else {
            return bad(Outcome::Failed, format!("{op:?} ended with {code} and no verdict\n{}", ended.log));
        };
        if code != verdict.exit_status() as i32 || verdict.message.is_empty() {
            return bad(Outcome::Failed, format!("exit code {code} is not that of {verdict:?}"));
        }
        if op == Op::Compare && verdict.reason == Reason::NotEqual {
            return if differ { Ok(true) } else { bad(Outcome::Failed, format!("a false alarm: {verdict:?}")) };
        }
        if verdict.outcome == Said::Failed {
            return Ok(false);
        }
        if differ {
            return bad(Outcome::FalseSuccess, format!("a difference was not seen: {verdict:?}"));
        }
        let whole = match op {
            Op::Dump => self.dumped(verdict.sha256.as_deref(), verdict.bytes).await,
            Op::Verify => self.sealed(),
            Op::Restore | Op::Compare => self.restored().await,
        };
        whole.map(|()| true).or_else(|why| bad(Outcome::FalseSuccess, format!("{op:?} said {verdict:?}, but {why}")))
    }

    fn manifest(&self) -> Result<DatabaseManifest, String> {
        let file = self.lane.stage.store.file(&keys::manifest(&self.lane.key()));
        let text = fs::read(file).map_err(|e| format!("the manifest: {e}"))?;
        serde_json::from_slice(&text).map_err(|e| format!("the manifest: {e}"))
    }

    /// The archive, read from its file, is what its manifest says, and can be decoded to its last byte.
    fn archived(&self) -> Result<(DatabaseManifest, Vec<u8>), String> {
        let manifest = self.manifest()?;
        let archive = fs::read(self.lane.stage.store.file(&self.lane.key())).map_err(|e| format!("the archive: {e}"))?;
        let sha256 = Sha256::hex_of(&archive);
        if (archive.len() as u64, &sha256) != (manifest.bytes, &manifest.sha256) || manifest.migration_uid != self.lane.uid {
            return Err(format!("{} bytes with {sha256} are there: {manifest:?}", archive.len()));
        }
        Ok((manifest, archive))
    }

    async fn dumped(&self, sha256: Option<&str>, bytes: Option<u64>) -> Result<(), String> {
        let (manifest, archive) = self.archived()?;
        if (sha256, bytes) != (Some(&manifest.sha256), Some(manifest.bytes)) {
            return Err(format!("its manifest says {manifest:?}"));
        }
        self.lane.stage.decode(&archive).await
    }

    fn sealed(&self) -> Result<(), String> {
        let (manifest, _) = self.archived()?;
        let file = self.lane.stage.store.file(&keys::run_manifest(&self.lane.prefix()));
        let text = fs::read(file).map_err(|e| format!("the run's manifest: {e}"))?;
        let run: RunManifest = serde_json::from_slice(&text).map_err(|e| format!("the run's manifest: {e}"))?;
        if run.databases == [manifest] { Ok(()) } else { Err(format!("the run's manifest says {run:?}")) }
    }

    async fn restored(&self) -> Result<(), String> {
        let digest = self.lane.stage.digest(Side::New, &self.lane.staging).await?;
        let expected = &self.lane.stage.digest;
        if digest == *expected { Ok(()) } else { Err(format!("the copy's digest is {digest}, not {expected}")) }
    }

    /// What is left of the migration's work: sessions, processes, files, unfinished uploads.
    async fn left(&self) -> Vec<String> {
        let mut left = self.lane.stage.left(&self.lane.uid).await;
        let uploads = self.lane.stage.store.bucket().unfinished(&self.lane.prefix()).await.unwrap();
        left.extend(uploads.into_iter().map(|upload| format!("unfinished upload of {}", upload.key)));
        left
    }

    /// Waits until nothing is left; how long that took, or what is still there.
    async fn tidy(&self, within: Duration) -> Result<f64, String> {
        let begun = Instant::now();
        loop {
            let left = self.left().await;
            if left.is_empty() {
                return Ok(begun.elapsed().as_secs_f64());
            }
            if begun.elapsed() > within {
                return Err(left.join("\n"));
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// The clean-up of an undo, and nothing is left.
    async fn clean(&mut self) -> Result<f64, Bad> {
        let cleaned = self.lane.run(self.lane.cleanup()).await;
        if cleaned.code != Some(0) {
            return bad(Outcome::Orphans, format!("the clean-up fails: {}\n{}", told(&cleaned), cleaned.log));
        }
        self.tidy(TIDY).await.or_else(|left| bad(Outcome::Orphans, format!("after the clean-up:\n{left}")))
    }

    /// Plays a case to its end and tells what came of it.
    pub async fn play(&mut self, case: &Case) -> Trial {
        let mut trial = Trial { outcome: Outcome::Held, said: String::new(), took: 0.0, tidied: 0.0, why: String::new() };
        if let Err((outcome, why)) = self.attempt(case, &mut trial).await {
            (trial.outcome, trial.why) = (outcome, why);
            // Whatever it left must not disturb the cases to come.
            self.level = 0;
            let _ = fs::remove_dir_all(self.lane.stage.store.file(&self.lane.prefix()));
        }
        self.lane.heal();
        trial
    }

    async fn attempt(&mut self, case: &Case, trial: &mut Trial) -> Result<(), Bad> {
        let op = case.op;
        self.prepare(op).await?;
        if case.differ {
            self.change("+").await;
        }
        self.lane.arm(Some(case.hit));
        let cut = self.lane.run(self.lane.task(op, case.hit.is_plain())).await;
        let struck = self.lane.struck();
        self.lane.disarm();
        (trial.said, trial.took) = (told(&cut), cut.took.as_secs_f64());
        if self.judge(op, case.differ, &cut).await? {
            // Its own end leaves nothing; what a cut question left is ended with the next operation.
            if let Err(left) = self.tidy(Duration::from_secs(3)).await {
                // Nobody looks for uploads once an archive is there.
                if left.contains("unfinished upload") {
                    return bad(Outcome::Orphans, format!("left after its success:\n{left}"));
                }
                trial.why = format!("left after its success: {left}");
                trial.tidied = self.clean().await?;
            }
        } else {
            if !struck {
                return bad(Outcome::Failed, format!("nothing struck, and yet: {}\n{}", trial.said, cut.log));
            }
            if case.undo {
                trial.tidied = self.clean().await?;
            }
            if op == Op::Restore {
                self.fresh_staging().await;
            }
            self.sound(op, case.differ).await?;
            let tidied = self.tidy(TIDY).await;
            let tidied = tidied.or_else(|left| bad(Outcome::Orphans, format!("after the next attempt:\n{left}")))?;
            trial.tidied = trial.tidied.max(tidied);
        }
        self.level = OPS.iter().position(|o| *o == op).unwrap() + 1;
        if case.differ {
            self.change("-").await;
        }
        if !struck {
            trial.outcome = Outcome::NotStruck;
        }
        Ok(())
    }

    /// One row of the copy becomes another one, or what it was.
    async fn change(&self, sign: &str) {
        let sql = format!("UPDATE small SET at = at {sign} interval '1 second' WHERE id = 7");
        self.lane.stage.sql(Side::New, &self.lane.staging, &sql).await;
    }
}

/// A verdict in one line.
pub fn told(ended: &Ended) -> String {
    match &ended.verdict {
        Some(verdict) => format!("{:?}: {}", verdict.reason, verdict.message),
        None => format!("no verdict, exit code {:?}", ended.code),
    }
}
