//! Commands to nodes, also to those that are connected to another instance.
//!
//! What is for nodes elsewhere is written down in the store that the instances share, as an order; each instance looks for orders all
//! the time ([`crate::instances`]), has those of its own nodes that are meant carry them out, and writes their answers beside.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use shoal_link::message::{Command, Reply};
use tokio::time::Instant;

use crate::app::App;
use crate::instances;
use crate::link::Answer;
use crate::store::{Order, StoreError};

/// How often answers are looked for.
const LOOK: Duration = Duration::from_millis(100);

/// Has nodes carry out a command: those named, or all that are connected, to whichever instance. Their answers by name, up to `wait`.
pub(crate) async fn command(
    app: &App,
    nodes: Option<&[String]>,
    command: &Command,
    wait: Duration,
) -> Result<Vec<Answer>, StoreError> {
    if !app.shared() {
        return Ok(app.hub.command(nodes, command, wait).await);
    }
    // As they are now: a purge may miss nobody.
    instances::look(app).await?;
    let (here, others) = (app.hub.nodes(), app.instances.others());
    let wanted = |node: &String| nodes.is_none_or(|nodes| nodes.contains(node)) && !here.contains_key(node);
    let elsewhere: Vec<String> = others.keys().filter(|node| wanted(node)).cloned().collect();
    let local: Option<Vec<String>> =
        nodes.map(|nodes| nodes.iter().filter(|node| !elsewhere.contains(node)).cloned().collect());
    let (mut answers, far) =
        tokio::join!(app.hub.command(local.as_deref(), command, wait), order(app, &elsewhere, command, wait));
    answers.extend(far);
    answers.sort_by(|one, other| one.node.cmp(&other.node));
    Ok(answers)
}

/// Has nodes of other instances carry out a command.
async fn order(app: &App, nodes: &[String], command: &Command, wait: Duration) -> Vec<Answer> {
    let all =
        |error: String| nodes.iter().map(|node| Answer { node: node.clone(), result: Err(error.clone()) }).collect();
    if nodes.is_empty() {
        return Vec::new();
    }
    let deadline = Instant::now() + wait;
    let (list, text) = match (serde_json::to_string(nodes), serde_json::to_string(command)) {
        (Ok(list), Ok(text)) => (list, text),
        (Err(error), _) | (_, Err(error)) => return all(error.to_string()),
    };
    let (instance, wait_ms) = (app.instances.id.clone(), wait.as_millis() as u64);
    let number = match app.db(move |store| store.order(&instance, &list, &text, wait_ms)).await {
        Ok(number) => number,
        Err(error) => return all(error.to_string()),
    };
    let mut answers: BTreeMap<String, String> = BTreeMap::new();
    while answers.len() < nodes.len() && Instant::now() < deadline {
        tokio::time::sleep(LOOK.min(deadline.saturating_duration_since(Instant::now()))).await;
        // A failure is counted and logged, and the next look may do better.
        if let Ok(found) = app.db(move |store| store.order_answers(number)).await {
            answers = found.into_iter().collect();
        }
    }
    // One that stays is forgotten in time.
    let _ = app.db(move |store| store.end_order(number)).await;
    let result = |node: &String| -> Result<Reply, String> {
        let text = answers.get(node).ok_or_else(|| {
            let wait = wait.as_millis();
            format!("no answer through the node's instance within {wait} ms; it may still carry it out")
        })?;
        serde_json::from_str(text)
            .unwrap_or_else(|error| Err(format!("its instance's answer is not understood: {error}")))
    };
    nodes.iter().map(|node| Answer { node: node.clone(), result: result(node) }).collect()
}

/// Carries out another instance's order, as far as it is for nodes that are connected here.
pub(crate) async fn carry_out(app: Arc<App>, order: Order) {
    let (nodes, command) = match (
        serde_json::from_str::<Vec<String>>(&order.nodes),
        serde_json::from_str::<Command>(&order.command),
    ) {
        (Ok(nodes), Ok(command)) => (nodes, command),
        (Err(error), _) | (_, Err(error)) => {
            // The other side reports that nothing came.
            tracing::warn!(%error, number = order.number, "another instance's command is not understood; run the same release");
            return;
        }
    };
    let here = app.hub.nodes();
    let mine: Vec<String> = nodes.into_iter().filter(|node| here.contains_key(node)).collect();
    if mine.is_empty() {
        return;
    }
    let answers = app.hub.command(Some(&mine), &command, Duration::from_millis(order.wait_ms)).await;
    let text = |Answer { node, result }: Answer| Some((node, serde_json::to_string(&result).ok()?));
    let answers: Vec<(String, String)> = answers.into_iter().filter_map(text).collect();
    // A failure is counted and logged; the other side reports that nothing came.
    let _ = app.db(move |store| store.answer_order(order.number, &answers)).await;
}
