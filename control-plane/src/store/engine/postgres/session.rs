//! One connection: statements prepared once, and what their errors mean.

use std::collections::HashMap;
use std::error::Error as _;
use std::sync::Arc;

use postgres::error::SqlState;
use postgres::fallible_iterator::FallibleIterator;
use postgres::types::ToSql;
use postgres::{Client, Error, Statement};

use crate::store::engine::{Row, Value};
use crate::store::{StoreError, StoreErrorKind};

/// Statements kept prepared on each connection; at the limit all are forgotten.
const PREPARED: usize = 256;

/// A failure that another attempt may cure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Others changed the same.
    Conflict,
    /// The connection is dead.
    Lost,
}

/// How an attempt ended.
pub(super) enum Outcome<T, E> {
    Done(T),
    /// It failed, and the connection is as before.
    Failed(E),
    /// It failed, and the connection is not to be used again.
    Broken(E),
    /// Nothing of it was kept.
    Again(Fault, E),
}

impl<T, E> Outcome<T, E> {
    pub(super) fn of(fault: Option<Fault>, error: E) -> Self {
        match fault {
            Some(fault) => Self::Again(fault, error),
            None => Self::Failed(error),
        }
    }
}

/// A connection.
pub(in crate::store::engine) struct Session {
    client: Client,
    statements: HashMap<Box<str>, Statement>,
    /// The last curable failure since it was set to none.
    pub(super) fault: Option<Fault>,
}

impl Session {
    pub(super) fn new(client: Client) -> Self {
        Self { client, statements: HashMap::new(), fault: None }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    pub(in crate::store::engine) fn script(&mut self, name: &str, sql: &str) -> Result<(), StoreError> {
        self.client.batch_execute(sql).map_err(|error| self.failed(name, &error))
    }

    pub(in crate::store::engine) fn execute(
        &mut self,
        name: &str,
        sql: &str,
        values: &[Value],
    ) -> Result<u64, StoreError> {
        let result = self.statement(sql).and_then(|statement| {
            let values: Vec<&(dyn ToSql + Sync)> = values.iter().map(|value| value as _).collect();
            self.client.execute(&statement, &values)
        });
        result.map_err(|error| self.failed(name, &error))
    }

    pub(in crate::store::engine) fn query<E: From<StoreError>>(
        &mut self,
        name: &Arc<str>,
        sql: &str,
        values: &[Value],
        each: &mut dyn FnMut(Row) -> Result<bool, E>,
    ) -> Result<(), E> {
        let mut own = Ok(());
        let result = self.statement(sql).and_then(|statement| {
            let mut rows = self.client.query_raw(&statement, values.iter())?;
            while let Some(row) = rows.next()? {
                let values = (0..row.len()).map(|at| row.try_get(at)).collect::<Result<_, _>>()?;
                match each(Row { values, name: Arc::clone(name) }) {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(error) => {
                        own = Err(error);
                        break;
                    }
                }
            }
            Ok(())
        });
        result.map_err(|error| self.failed(name, &error))?;
        own
    }

    fn statement(&mut self, sql: &str) -> Result<Statement, Error> {
        if let Some(statement) = self.statements.get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare(sql)?;
        if self.statements.len() >= PREPARED {
            self.statements.clear();
        }
        self.statements.insert(sql.into(), statement.clone());
        Ok(statement)
    }

    fn failed(&mut self, name: &str, error: &Error) -> StoreError {
        let code = error.code();
        let stopped =
            [SqlState::ADMIN_SHUTDOWN, SqlState::CRASH_SHUTDOWN, SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT];
        if self.client.is_closed() || error.is_closed() || code.is_some_and(|code| stopped.contains(code)) {
            self.fault = Some(Fault::Lost);
        } else if code
            .is_some_and(|code| [SqlState::T_R_SERIALIZATION_FAILURE, SqlState::T_R_DEADLOCK_DETECTED].contains(code))
        {
            self.fault = Some(Fault::Conflict);
        } else if code == Some(&SqlState::FEATURE_NOT_SUPPORTED) && !self.statements.is_empty() {
            // A newer release changed a table under a prepared statement.
            self.statements.clear();
            self.fault = Some(Fault::Conflict);
        }
        store_error(name, error)
    }
}

/// What went wrong, in the server's words but without its details, which quote rows.
pub(super) fn store_error(name: &str, error: &Error) -> StoreError {
    let kind = match error.code().map(SqlState::code) {
        None if error.is_closed() || has_io(error) => StoreErrorKind::Unreachable,
        // Such as a password that is asked for and not there.
        None if ["authentication error", "invalid configuration"].contains(&&*error.to_string()) => {
            StoreErrorKind::Login
        }
        None => StoreErrorKind::Server,
        Some("53100") => StoreErrorKind::Full,
        Some("3D000" | "3F000" | "42501") => StoreErrorKind::Login,
        // Another instance's change is in the way, or the statement took too long.
        Some("40001" | "40P01" | "55P03" | "57014") => StoreErrorKind::Busy,
        // It starts, stops, takes no connections to this database, or is a stand-by that cannot write.
        Some("57P01" | "57P02" | "57P03" | "55000" | "25006") => StoreErrorKind::Unreachable,
        Some(code) => match code.get(..2) {
            Some("08") => StoreErrorKind::Unreachable,
            Some("28") => StoreErrorKind::Login,
            Some("53") => StoreErrorKind::Busy,
            Some("XX") => StoreErrorKind::Corrupt,
            _ => StoreErrorKind::Server,
        },
    };
    let message = match error.as_db_error() {
        Some(said) => format!("{} ({})", said.message(), said.code().code()),
        None => {
            let mut message = error.to_string();
            let mut source = error.source();
            while let Some(cause) = source {
                message.push_str(&format!(": {cause}"));
                source = cause.source();
            }
            message
        }
    };
    StoreError { kind, path: name.to_owned(), message }
}

fn has_io(error: &Error) -> bool {
    let mut source = error.source();
    while let Some(cause) = source {
        if cause.is::<std::io::Error>() {
            return true;
        }
        source = cause.source();
    }
    false
}
