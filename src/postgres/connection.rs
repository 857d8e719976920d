//! Why there is no session, or no longer one: by SQLSTATE where the server's is known, else by the words of servers and libpq.
//!
//! libpq gives no SQLSTATE for a connection that does not come about, and its programs print words alone. Those of a server that
//! speaks another language (`lc_messages`) are not known here.

use super::carrier::{SqlError, SqlErrorKind};

/// A server that is not up, is starting or stopping, has no slot left, or ended the session.
const UNAVAILABLE: [&str; 9] = [
    "server closed the connection unexpectedly",
    "terminating connection",
    "the database system is ",
    "could not receive data from server",
    "no connection to the server",
    "Is the server running ",
    "too many connections for ",
    "too many clients already",
    "remaining connection slots are reserved",
];

/// A server that is up and does not let this role in. Of `role "..."` the beginning of the sentence counts.
const REFUSED: [&str; 6] = [
    " authentication failed for user ",
    "no password supplied",
    "password missing",
    "no pg_hba.conf entry ",
    "pg_hba.conf rejects connection ",
    "is not permitted to log in",
];

/// What the last server that spoke has said. libpq tells of all addresses of a host, also of those where nobody answered.
fn said(message: &str) -> &str {
    message.rsplit_once("FATAL:  ").map_or(message, |(_, said)| said.lines().next().unwrap_or_default())
}

/// Whether a line of a program of PostgreSQL says that its server was, or became, unavailable.
pub fn says_unavailable(line: &str) -> bool {
    UNAVAILABLE.iter().any(|words| line.contains(words))
}

impl SqlError {
    /// Whether the server takes no session for now, or ended this one: usually it passes.
    pub fn is_unavailable(&self) -> bool {
        // Class 08: connection exception; 57P: operator intervention; 53300: too many connections (PostgreSQL's manual, appendix A).
        let told = |code: &str| code.starts_with("08") || code.starts_with("57P") || code == "53300";
        self.kind == SqlErrorKind::Connect && self.sqlstate.as_deref().map_or_else(|| says_unavailable(said(&self.message)), told)
    }

    /// Whether the server does not let the role in.
    pub fn is_login_refused(&self) -> bool {
        // Class 28: invalid authorization specification.
        let told = |code: &str| code.starts_with("28");
        let says = || {
            let said = said(&self.message);
            said.starts_with("role \"") || REFUSED.iter().any(|words| said.contains(words))
        };
        self.kind == SqlErrorKind::Connect && self.sqlstate.as_deref().map_or_else(says, told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(kind: SqlErrorKind, sqlstate: Option<&str>, message: &str) -> (bool, bool) {
        let error = SqlError { kind, sqlstate: sqlstate.map(str::to_owned), message: message.into() };
        (error.is_unavailable(), error.is_login_refused())
    }

    #[test]
    fn a_server_that_is_away_is_told_from_one_that_refuses_and_from_the_way_to_it() {
        const SOCKET: &str = "connection to server on socket \"/var/run/postgresql/.s.PGSQL.5432\" failed: ";
        let said = |words: &str| of(SqlErrorKind::Connect, None, &format!("{SOCKET}{words}"));
        for away in [
            "No such file or directory\n\tIs the server running locally and accepting connections on that socket?",
            "FATAL:  the database system is starting up",
            "FATAL:  sorry, too many clients already",
            "FATAL:  too many connections for role \"app\"",
            "FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute",
        ] {
            assert_eq!(said(away), (true, false), "{away}");
        }
        for refused in [
            "FATAL:  Peer authentication failed for user \"app\"",
            "FATAL:  no pg_hba.conf entry for host \"[local]\", user \"app\", database \"app\", no encryption",
            "FATAL:  role \"app\" does not exist",
            "FATAL:  role \"app\" is not permitted to log in",
            "FATAL:  pg_hba.conf rejects connection for host \"[local]\", user \"app\", database \"app\", no encryption",
            "fe_sendauth: no password supplied",
        ] {
            assert_eq!(said(refused), (false, true), "{refused}");
        }
        let nobody =
            format!("{SOCKET}Connection refused\n\tIs the server running on that host and accepting TCP/IP connections?\n");
        let both = |first: &str, second: &str| of(SqlErrorKind::Connect, None, &format!("{first}{SOCKET}{second}\n"));
        assert_eq!(both(&nobody, "FATAL:  database \"app\" does not exist"), (false, false));
        assert_eq!(both(&nobody, "FATAL:  role \"app\" does not exist"), (false, true));
        let refused = format!("{SOCKET}FATAL:  role \"app\" does not exist\n");
        assert_eq!(both(&refused, nobody.strip_prefix(SOCKET).unwrap()), (false, true));
        assert_eq!(both(&nobody, "FATAL:  the database system is starting up"), (true, false));
        for neither in ["FATAL:  database \"app\" does not exist", "FATAL:  permission denied for database \"app\""] {
            assert_eq!(said(neither), (false, false), "{neither}");
        }
        assert_eq!(of(SqlErrorKind::Connect, None, "psql: exec in pod a/b: 403"), (false, false));
    }

    #[test]
    fn the_servers_code_is_believed_before_its_words() {
        let told = |code: &str| of(SqlErrorKind::Connect, Some(code), "la base de données");
        assert_eq!(["57P01", "57P02", "57P03", "53300", "08006"].map(told), [(true, false); 5]);
        assert_eq!(["28000", "28P01"].map(told), [(false, true); 2]);
        assert_eq!(["3D000", "53100", "55000"].map(told), [(false, false); 3]);
        assert_eq!(of(SqlErrorKind::Connect, Some("3D000"), "the database system is here"), (false, false));
        // A statement that was refused, such as one that was cancelled, says nothing about the connection.
        assert_eq!(of(SqlErrorKind::Statement, Some("57P01"), "terminating connection"), (false, false));
        assert_eq!(of(SqlErrorKind::Statement, Some("28000"), "no"), (false, false));
    }
}
