//! schemathesis makes thousands of requests of what our OpenAPI documents say, valid and not, and holds the answers to them.

use std::process::Command;

use shoal_tests::lab::{Lab, Settings};
use shoal_tests::tool;

const NAME: &str = "schemathesis";
const PACKAGE: &str = "schemathesis==4.32.5";

/// Seconds for each document.
const SECONDS: &str = "45";

/// What is held against us. Left out are two: `positive_data_acceptance`, for a schema cannot say all that a channel must be, and
/// `missing_required_header`, for our documents require none.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,\
                      response_schema_conformance,negative_data_rejection,unsupported_method,allow_header_conformance,\
                      use_after_free,ensure_resource_availability,ignored_auth";

#[test]
fn the_admin_api_is_as_its_document_says() {
    let lab = Settings::new(1).start();
    let token = std::fs::read_to_string(lab.dir().join("token")).expect("the lab has a token");
    let url = format!("http://{}/api/v1/openapi.json", lab.api());
    run(&lab, &url, &["--header", &format!("Authorization: Bearer {}", token.trim())]);
}

#[test]
fn the_public_api_is_as_its_document_says() {
    let lab = Settings::new(1).start();
    run(&lab, &format!("http://{}/v1/openapi.json", lab.public()), &[]);
}

fn run(lab: &Lab, url: &str, more: &[&str]) {
    let Some(python) = tool::need(NAME, "python3") else { return };
    let Some(folder) = tool::pip(NAME, PACKAGE) else { return };
    let mut command = Command::new(python);
    let hooks = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/schemathesis_hooks.py");
    command.env("PYTHONPATH", &folder).env("SCHEMATHESIS_HOOKS", hooks).current_dir(lab.dir());
    command.args(["-m", "schemathesis.cli", "run", url, "--max-time", SECONDS, "--seed", "6"]);
    command.args(["--phases", "examples,coverage,fuzzing", "--checks", CHECKS, "--warnings", "off", "--no-color"]);
    let output = tool::run(command.args(["--continue-on-failure"]).args(more));
    let said = tool::stdout(&output);
    let summary = said.find("SUMMARY").and_then(|at| said.get(at..)).unwrap_or(&said);
    println!("{summary}");
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
}
