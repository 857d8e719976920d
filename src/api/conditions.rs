//! Condition types and reasons: constants, because people and scripts wait for them.

/// Condition types, all present as `Unknown` from the first visit.
pub mod types {
    /// Nothing stands between here and the end (kstatus).
    pub const READY: &str = "Ready";
    /// The operator is at work (kstatus).
    pub const RECONCILING: &str = "Reconciling";
    /// The operator cannot go on by itself (kstatus).
    pub const STALLED: &str = "Stalled";
    /// The checks found nothing that stops the migration.
    pub const PLANNED: &str = "Planned";
    /// No writer is left.
    pub const QUIESCED: &str = "Quiesced";
    /// The source refuses everyone.
    pub const FENCED: &str = "Fenced";
    /// The dump is in the bucket, re-read and sealed.
    pub const ARCHIVED: &str = "Archived";
    /// Both databases were found equal.
    pub const VERIFIED: &str = "Verified";
    /// The copy has its final name.
    pub const PUBLISHED: &str = "Published";
    /// The migration is over and the application runs on the new database.
    pub const SUCCEEDED: &str = "Succeeded";
    /// Everything that had been done is undone.
    pub const ROLLED_BACK: &str = "RolledBack";
    /// All of them, in the order shown.
    pub const ALL: [&str; 11] =
        [READY, RECONCILING, STALLED, PLANNED, QUIESCED, FENCED, ARCHIVED, VERIFIED, PUBLISHED, SUCCEEDED, ROLLED_BACK];
}

/// Defines the reasons, and a list of all of them for the tests that hold the documents against it.
macro_rules! reasons {
    ($($(#[$doc:meta])+ $name:ident = $text:literal;)+) => {
        $($(#[$doc])+ pub const $name: &str = $text;)+
        /// Every reason.
        pub const ALL: &[&str] = &[$($text),+];
    };
}

/// Reasons of conditions, events and findings.
pub mod reasons {
    reasons! {
        /// Not looked at yet.
        UNKNOWN = "Unknown";
        /// Steps are running.
        PROGRESSING = "Progressing";
        /// spec.suspend is set.
        SUSPENDED = "Suspended";
        /// The checks passed; waiting for mode: Migrate.
        PLANNED = "Planned";
        /// The checks found something that stops the migration.
        BLOCKED = "Blocked";
        /// The step that this condition speaks of is done.
        DONE = "Done";
        /// A step ended well.
        STEP_DONE = "StepDone";
        /// All done.
        SUCCEEDED = "Succeeded";
        /// The run ended without success.
        FAILED = "Failed";
        /// An earlier object of the same name moved the database: nothing was left to do.
        ALREADY_MIGRATED = "AlreadyMigrated";
        /// Another migration is about to move the same source, or to publish at the same target.
        CLAIMED_BY_ANOTHER = "ClaimedByAnother";
        /// All that had been done is undone.
        UNDONE = "Undone";
        /// Being undone.
        UNDOING = "Undoing";
        /// spec.cancel ended the run.
        CANCELLED = "Cancelled";
        /// spec.cancel came after the database was published.
        CANCEL_TOO_LATE = "CancelTooLate";
        /// spec.rollback undid the run.
        ROLLBACK_REQUESTED = "RollbackRequested";
        /// spec.rollback came after the application was allowed to write to the new database, without saying so.
        ROLLBACK_NOT_ACKNOWLEDGED = "RollbackNotAcknowledged";
        /// What the application had written to the new database is in the bucket.
        TARGET_WRITES_SAVED = "TargetWritesSaved";
        /// What the application had written to the new database could not be saved: the database is kept.
        TARGET_WRITES_KEPT = "TargetWritesKept";
        /// spec.unfence opened the old database.
        UNFENCED = "Unfenced";
        /// The object is being deleted.
        DELETED = "Deleted";
        /// The object is gone, and the source stays fenced.
        FENCE_REMAINS = "FenceRemains";
        /// The status lacks a fact that an earlier step wrote into it.
        STATUS_LOST = "StatusLost";
        /// Something that usually passes: tried again.
        TRANSIENT = "Transient";
        /// A step needed longer than it may.
        DEADLINE_EXCEEDED = "DeadlineExceeded";
        /// A named object is not there.
        OBJECT_NOT_FOUND = "ObjectNotFound";
        /// An API server or S3 server refuses a request for a reason of its own.
        REQUEST_REFUSED = "RequestRefused";
        /// The service account is absent, not allowed, or reserved.
        SERVICE_ACCOUNT_NOT_ALLOWED = "ServiceAccountNotAllowed";
        /// The service account lacks a right.
        MISSING_PERMISSION = "MissingPermission";
        /// A Secret or a key in it is absent.
        SECRET_NOT_FOUND = "SecretNotFound";
        /// A kubeconfig holds what is not allowed, or cannot be read.
        KUBECONFIG_REFUSED = "KubeconfigRefused";
        /// A cluster does not answer.
        CLUSTER_UNREACHABLE = "ClusterUnreachable";
        /// A cluster refuses the credentials.
        CLUSTER_UNAUTHORIZED = "ClusterUnauthorized";
        /// No running pod, or more than one.
        POD_NOT_READY = "PodNotReady";
        /// The pod is not the one that the run began with.
        POD_CHANGED = "PodChanged";
        /// The server is not the one that the run began with.
        SERVER_CHANGED = "ServerChanged";
        /// The container lacks psql, pg_dump or pg_restore.
        TOOL_NOT_FOUND = "ToolNotFound";
        /// The server refuses the admin login, or the role lacks a right.
        ADMIN_LOGIN_FAILED = "AdminLoginFailed";
        /// A server is not up, is starting or stopping, or has no slot for another session.
        SERVER_UNAVAILABLE = "ServerUnavailable";
        /// A question to a server failed.
        QUERY_FAILED = "QueryFailed";
        /// The database is not there.
        DATABASE_NOT_FOUND = "DatabaseNotFound";
        /// The server is a standby.
        SERVER_IS_STANDBY = "ServerIsStandby";
        /// The target is older than the source.
        TARGET_OLDER = "TargetOlder";
        /// A server is older than the product supports.
        SERVER_TOO_OLD = "ServerTooOld";
        /// A tool is not of the version that it must be.
        TOOL_VERSION_MISMATCH = "ToolVersionMismatch";
        /// The target database holds tables.
        TARGET_NOT_EMPTY = "TargetNotEmpty";
        /// Source and target are one database.
        SAME_DATABASE = "SameDatabase";
        /// A name that the migration needs is taken.
        NAME_TAKEN = "NameTaken";
        /// The target has too little room.
        DISK_TOO_SMALL = "DiskTooSmall";
        /// The encodings do not fit.
        ENCODING_MISMATCH = "EncodingMismatch";
        /// The target lacks a locale of the source.
        LOCALE_MISMATCH = "LocaleMismatch";
        /// Text sorts otherwise than it did.
        COLLATION_CHANGED = "CollationChanged";
        /// The target lacks an extension.
        EXTENSION_UNAVAILABLE = "ExtensionUnavailable";
        /// An extension is of another version, or has rows of its own.
        EXTENSION_CHANGES = "ExtensionChanges";
        /// The owner role is absent or cannot log in.
        OWNER_NOT_READY = "OwnerNotReady";
        /// The endpoint does not lead to the target.
        ENDPOINT_MISMATCH = "EndpointMismatch";
        /// Prepared transactions are open on the source.
        PREPARED_TRANSACTIONS = "PreparedTransactions";
        /// An index is being built concurrently.
        INDEX_BUILD_RUNNING = "IndexBuildRunning";
        /// The source cannot be fenced as asked.
        FENCE_NOT_POSSIBLE = "FenceNotPossible";
        /// Expressions would change their meaning in a database of another name.
        DATABASE_NAME_IN_EXPRESSION = "DatabaseNameInExpression";
        /// Functions may rely on the search path, which is empty in a restore.
        SEARCH_PATH_DEPENDENCE = "SearchPathDependence";
        /// Objects get another owner, or grants are dropped.
        OWNERSHIP_CHANGES = "OwnershipChanges";
        /// The server cannot lock all tables at once, or may not be able to.
        LOCK_TABLE_SMALL = "LockTableSmall";
        /// A standby that is away would not know of the fence.
        STANDBY_AWAY = "StandbyAway";
        /// Access rules name the database.
        ACCESS_RULES_BY_NAME = "AccessRulesByName";
        /// A probe of the pod logs in to the database.
        PROBE_LOGS_IN = "ProbeLogsIn";
        /// Something that a dump does not carry or that changes on the way.
        NOT_CARRIED_OVER = "NotCarriedOver";
        /// The archive may not fit into one S3 object.
        ARCHIVE_TOO_LARGE = "ArchiveTooLarge";
        /// The bucket is not there.
        BUCKET_NOT_FOUND = "BucketNotFound";
        /// The bucket refuses the credentials or the write.
        BUCKET_FORBIDDEN = "BucketForbidden";
        /// The S3 server does not answer.
        BUCKET_UNREACHABLE = "BucketUnreachable";
        /// A writers selector matches nothing.
        WRITER_NOT_FOUND = "WriterNotFound";
        /// The database server itself is among the workloads to stop.
        SERVER_AMONG_WORKLOADS = "ServerAmongWorkloads";
        /// A workload is set by a controller.
        CONTROLLED_BY_OTHERS = "ControlledByOthers";
        /// An autoscaler may start a stopped workload.
        AUTOSCALED = "Autoscaled";
        /// A tool puts back what Git says.
        MANAGED_BY_GITOPS = "ManagedByGitops";
        /// The spec contradicts itself.
        SPEC_INVALID = "SpecInvalid";
        /// A kind of workload that is not supported yet.
        KIND_NOT_SUPPORTED = "KindNotSupported";
        /// A workload stands at 0 and no replicas are given.
        REPLICAS_NOT_KNOWN = "ReplicasNotKnown";
        /// A setting to re-point is not there.
        REPOINT_NOT_FOUND = "RepointNotFound";
        /// Writers did not stop, or came back.
        WRITERS_STILL_RUNNING = "WritersStillRunning";
        /// The source could not be closed, or was found open.
        FENCE_FAILED = "FenceFailed";
        /// pg_dump or the upload failed.
        DUMP_FAILED = "DumpFailed";
        /// The archive is not what was uploaded.
        ARCHIVE_DAMAGED = "ArchiveDamaged";
        /// pg_restore or the download failed.
        RESTORE_FAILED = "RestoreFailed";
        /// Both databases differ.
        NOT_EQUAL = "NotEqual";
        /// The source changed under the fence.
        SOURCE_CHANGED = "SourceChanged";
        /// The copy could not be given its name.
        PUBLISH_FAILED = "PublishFailed";
        /// A setting could not be changed.
        REPOINT_FAILED = "RepointFailed";
        /// A schema job failed.
        SCHEMA_JOB_FAILED = "SchemaJobFailed";
        /// The application did not become available.
        NOT_AVAILABLE = "NotAvailable";
        /// A mover ended without a verdict.
        MOVER_LOST = "MoverLost";
        /// Somebody changed what the operator had set.
        CHANGED_BY_OTHERS = "ChangedByOthers";
    }
}
