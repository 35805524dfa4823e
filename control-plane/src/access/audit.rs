//! The log of changes: who changed what, when, from where, and what came of it.
//!
//! A request that changes something runs in a [`Slot`]. The first transaction that commits on its behalf takes the entry
//! along, so that there is no change in the store without its entry; what changes nothing in the store (a command to nodes), or
//! was turned down, is noted right after. A change in the store cannot be noted after it is refused.

use std::future::Future;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::http::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Actor, Kind, Role, diff};
use crate::app::App;
use crate::store::now_ms;

/// Most bytes of an entry's path.
const MAX_PATH: usize = 512;
/// Most bytes of what is told of a change.
const MAX_CHANGE: usize = 16 << 10;

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It was done.
    Done,
    /// It was turned down, and changed nothing.
    Refused,
    /// It failed; what it was to do may be done in part.
    Failed,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Done, Self::Refused, Self::Failed];

    /// Its name in the API and in the store.
    pub fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|outcome| outcome.name() == text)
    }

    fn of(status: StatusCode) -> Self {
        match status.as_u16() {
            ..400 => Self::Done,
            400..500 => Self::Refused,
            _ => Self::Failed,
        }
    }
}

/// One entry of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Unix milliseconds.
    pub at_ms: u64,
    /// Who: name of the user or token. Of an attempt to log in that failed, what was given.
    pub actor: String,
    /// With what.
    pub kind: Kind,
    /// His role; null: he did not get in.
    pub role: Option<Role>,
    /// From where, as far as is known.
    pub address: Option<IpAddr>,
    /// What: the operation of the OpenAPI document, or the console's form.
    pub action: String,
    /// Method and path.
    pub request: String,
    /// What it was done to, as in `channel room1`; empty where the path says it.
    pub target: String,
    /// What came of it.
    pub outcome: Outcome,
    /// The answer's status; null: the entry was written with the change itself, which was done.
    pub status: Option<u16>,
    /// Revision of the document before.
    pub before: Option<u64>,
    /// And after.
    pub after: Option<u64>,
    /// The fields that changed (`field`, `from`, `to`), or what was sent; secrets are hidden. JSON.
    pub change: Option<String>,
}

/// An entry that waits for what it is about.
#[derive(Debug)]
pub struct Slot {
    entry: Entry,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    target: String,
    before: Option<u64>,
    change: Option<String>,
    /// A document's revision is to be looked up.
    revision: bool,
    written: bool,
}

tokio::task_local! {
    static SLOT: Arc<Slot>;
}

impl Slot {
    /// For a request of `actor`.
    pub(crate) fn new(actor: &Actor, address: Option<IpAddr>, action: &str, request: &str) -> Arc<Self> {
        let entry = Entry { role: Some(actor.role), ..entry(&actor.name, actor.kind, address, action, request) };
        Arc::new(Self { entry, state: Mutex::default() })
    }

    /// The role of who asks.
    pub(crate) fn role(&self) -> Option<Role> {
        self.entry.role
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The entry to write with a change; none, when it is written already.
    pub(crate) fn pending(&self) -> Option<Entry> {
        let state = self.state();
        (!state.written).then(|| Entry {
            target: state.target.clone(),
            before: state.before,
            change: state.change.clone(),
            ..self.entry.clone()
        })
    }

    /// Whether the change makes a new revision of a document.
    pub(crate) fn has_revision(&self) -> bool {
        self.state().revision
    }

    /// The transaction with the entry is committed.
    pub(crate) fn is_written(&self) {
        self.state().written = true;
    }
}

/// The slot of the request that runs here.
pub(crate) fn current() -> Option<Arc<Slot>> {
    SLOT.try_with(Arc::clone).ok()
}

/// Runs `work` so that what it writes is no change of its own: not what an entry is committed with.
pub(crate) async fn aside<T>(work: impl Future<Output = T>) -> T {
    let Some(slot) = current() else { return work.await };
    let state = State { written: true, ..State::default() };
    SLOT.scope(Arc::new(Slot { entry: slot.entry.clone(), state: Mutex::new(state) }), work).await
}

/// Tells what was sent, unless more is known already.
pub(crate) fn sent(body: &Value) {
    if let Some(slot) = current() {
        slot.state().change.get_or_insert_with(|| bounded(diff::redacted(body).to_string()));
    }
}

/// Tells which document changes, from what to what; secrets must be hidden in both already (what is named as one is hidden
/// once more).
pub(crate) fn document(noun: &str, id: &str, before: Option<(u64, &Value)>, after: Option<&Value>) {
    if let Some(slot) = current() {
        let mut state = slot.state();
        state.target = cut(&format!("{noun} {id}"), MAX_PATH);
        state.before = before.map(|(revision, _)| revision);
        state.change = Some(bounded(diff::diff(before.map(|(_, value)| value), after).to_string()));
        state.revision = after.is_some();
    }
}

/// Tells what is changed.
pub(crate) fn target(noun: &str, id: &str) {
    if let Some(slot) = current() {
        slot.state().target = cut(&format!("{noun} {id}"), MAX_PATH);
    }
}

/// Runs `work` in the slot, and notes what came of it if no transaction did.
pub(crate) async fn run<T>(
    app: &App,
    slot: Arc<Slot>,
    work: impl Future<Output = T>,
    status: impl FnOnce(&T) -> StatusCode,
) -> T {
    let result = SLOT.scope(Arc::clone(&slot), work).await;
    if let Some(entry) = slot.pending() {
        let status = status(&result);
        note(app, Entry { outcome: Outcome::of(status), status: Some(status.as_u16()), ..entry }).await;
    }
    result
}

/// Notes that a request was turned down before it began.
pub(crate) async fn refused(app: &App, slot: &Slot, status: StatusCode) {
    if let Some(entry) = slot.pending() {
        note(app, Entry { outcome: Outcome::Refused, status: Some(status.as_u16()), ..entry }).await;
    }
}

/// Notes an attempt to get in that failed, unless there were too many lately.
pub(crate) async fn failed_attempt(app: &App, kind: Kind, name: &str, address: Option<IpAddr>, request: &str) {
    app.metrics.attempt_failed(kind.name());
    if app.access.may_note(std::time::Instant::now()) {
        let status = Some(StatusCode::UNAUTHORIZED.as_u16());
        let entry = entry(name, kind, address, "logIn", request);
        note(app, Entry { outcome: Outcome::Refused, status, ..entry }).await;
    }
}

fn entry(name: &str, kind: Kind, address: Option<IpAddr>, action: &str, request: &str) -> Entry {
    Entry {
        at_ms: now_ms(),
        actor: name.chars().filter(|character| !character.is_control()).take(super::MAX_NAME).collect(),
        kind,
        role: None,
        address,
        action: action.to_owned(),
        request: cut(request, MAX_PATH),
        target: String::new(),
        outcome: Outcome::Done,
        status: None,
        before: None,
        after: None,
        change: None,
    }
}

/// What cannot be noted is counted and logged: the change has happened, or has not, all the same.
async fn note(app: &App, entry: Entry) {
    let shown = format!("{} {} {}", entry.actor, entry.request, entry.outcome.name());
    if let Err(error) = app.note(entry).await {
        app.metrics.audit_failed();
        tracing::error!(%error, entry = shown, "the audit log has a gap");
    }
}

fn bounded(text: String) -> String {
    if text.len() <= MAX_CHANGE { text } else { serde_json::json!({"left_out": text.len()}).to_string() }
}

fn cut(text: &str, most: usize) -> String {
    if text.len() <= most { text.to_owned() } else { format!("{}…", &text[..text.floor_char_boundary(most)]) }
}
