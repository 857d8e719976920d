//! The reasons, what the sources say of them, and what `docs/troubleshooting.md` tells people about them.

use std::collections::BTreeMap;
use std::fs;

use pgmigration::api::conditions::{reasons, types};
use pgmigration::plan::advice;

use crate::rooms::{ROOMS, room_files};
use crate::root;

/// Headings of the third level and the text below each.
fn entries() -> BTreeMap<String, String> {
    let text = fs::read_to_string(root().join("docs/troubleshooting.md")).unwrap();
    let mut entries = BTreeMap::new();
    for part in text.split("\n### ").skip(1) {
        let (heading, rest) = part.split_once('\n').unwrap();
        let rest = rest.split("\n## ").next().unwrap();
        assert!(entries.insert(heading.to_owned(), rest.to_owned()).is_none(), "two entries for {heading}");
    }
    entries
}

#[test]
fn every_reason_has_an_entry_and_every_entry_a_reason() {
    let entries = entries();
    let missing: Vec<_> = reasons::ALL.iter().filter(|reason| !entries.contains_key(**reason)).collect();
    let unknown: Vec<_> = entries.keys().filter(|heading| !reasons::ALL.contains(&heading.as_str())).collect();
    assert!(missing.is_empty() && unknown.is_empty(), "no entry for {missing:?}; no such reason: {unknown:?}");
}

#[test]
fn every_entry_says_what_to_do_next() {
    for (reason, text) in entries() {
        let (told, next) = text.split_once("\n**Next:** ").unwrap_or_else(|| panic!("{reason} does not say what to do next"));
        assert!(told.trim().len() > 10 && next.trim().len() > 10, "{reason} says too little");
    }
}

/// The sources without their tests, and without the lines that define the reasons.
fn sources() -> Vec<(String, String)> {
    let files = ROOMS.iter().flat_map(|room| room_files(room));
    let product = files.filter(|(path, _)| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let defines = path.ends_with("api/conditions.rs");
        !defines && !name.ends_with("tests.rs") && !path.to_string_lossy().contains("simulation") && name != "fixtures.rs"
    });
    product
        .map(|(path, text)| {
            let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap().to_owned();
            (path.display().to_string(), text)
        })
        .collect()
}

/// The constant that holds a reason: `NotEqual` is `NOT_EQUAL`.
fn constant(reason: &str) -> String {
    let mut name = String::new();
    for character in reason.chars() {
        if character.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(character.to_ascii_uppercase());
    }
    name
}

/// What follows each `marker` in `text`, as far as it is a constant's name.
fn named_after<'a>(text: &'a str, marker: &str) -> Vec<&'a str> {
    let end = |rest: &'a str| rest.split(|c: char| !c.is_ascii_uppercase() && c != '_').next().unwrap_or_default();
    text.split(marker).skip(1).map(end).collect()
}

#[test]
fn every_reason_is_given_somewhere() {
    let sources = sources();
    // The table of advice names reasons, but gives none.
    let mut given: Vec<&str> = Vec::new();
    for (path, text) in &sources {
        if !path.ends_with("plan/advice.rs") {
            given.extend(named_after(text, "reasons::"));
        }
    }
    let unused: Vec<_> = reasons::ALL.iter().filter(|reason| !given.contains(&constant(reason).as_str())).collect();
    assert!(unused.is_empty(), "nobody gives {unused:?}: remove them");
}

/// Findings say themselves what to do; failures get it from the table of advice.
#[test]
fn every_reason_of_a_failure_has_advice() {
    let sources = sources();
    let mut judged = 0;
    for (path, text) in sources.iter().filter(|(path, _)| path.contains("/src/steps/")) {
        for call in text.split("Failure::").skip(1) {
            let Some(arguments) = ["transient(", "needs_human(", "terminal("].iter().find_map(|kind| call.strip_prefix(kind))
            else {
                continue;
            };
            let Some(name) = arguments.trim_start().strip_prefix("reasons::") else { continue };
            let name = named_after(&format!("reasons::{name}"), "reasons::")[0].to_owned();
            let reason = reasons::ALL.iter().find(|reason| constant(reason) == name).unwrap();
            assert!(!advice::next(reason).is_empty(), "{path} fails for {reason}, and src/plan/advice.rs has nothing to say");
            judged += 1;
        }
    }
    assert!(judged > 40, "only {judged} failures were found");
    for reason in reasons::ALL {
        let advice = advice::next(reason);
        assert!(advice.is_empty() || (advice.ends_with('.') && advice.len() < 150), "{reason}: {advice:?}");
    }
}

#[test]
fn the_page_of_conditions_names_each_condition_and_phase() {
    let page = fs::read_to_string(root().join("docs/conditions.md")).unwrap();
    for kind in types::ALL {
        assert!(page.contains(&format!("| `{kind}` |")), "docs/conditions.md does not tell of {kind}");
    }
    let crd = fs::read_to_string(root().join("crds/postgresmigrations.yaml")).unwrap();
    let crd: serde_json::Value = serde_saphyr::from_str(&crd).unwrap();
    let status = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"];
    let phases = status["phase"]["enum"].as_array().unwrap();
    assert_eq!(phases.len(), 8);
    for phase in phases.iter().map(|phase| phase.as_str().unwrap()) {
        assert!(page.contains(&format!("| `{phase}` |")), "docs/conditions.md does not tell of phase {phase}");
    }
}
