//! Templates of `--format`, over a document that may be anything: a template, a zero byte, and the document's text.
#![no_main]

// The command line's crate is a program; what is wanted of it depends on nothing else there.
#[path = "../../cli/src/format/template/mod.rs"]
mod template;

use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use skiff_fuzz::one_line;
use template::Template;

fuzz_target!(|input: &str| {
    let (text, document) = input.split_once('\0').unwrap_or((input, ""));
    let document = serde_json::from_str(document).unwrap_or_else(|_| usual());
    let parsed = match Template::parse(text) {
        Ok(template) => template,
        Err(error) => return printable(&error.to_string(), text),
    };
    for rendered in [parsed.render(&document, &json!({"a": "b"})), parsed.header(&document)] {
        if let Err(error) = rendered {
            printable(&error.to_string(), text);
        }
    }
});

/// Messages repeat words of the template, which may be on several lines themselves.
fn printable(message: &str, text: &str) {
    assert!(message.starts_with("template: :"), "{message:?}");
    if !text.contains('\n') && !text.contains("\\n") {
        one_line(message);
    }
}

fn usual() -> Value {
    json!({
        "Id": "2a2746dabd61", "Names": "web", "Labels": "a=b", "Args": ["1", "2"], "Ratio": 0.5, "Nothing": null,
        "State": {"Running": true, "Pid": 125}, "Config": {"Labels": {"a": "b"}}, "Mounts": [{"Destination": "/"}],
    })
}
