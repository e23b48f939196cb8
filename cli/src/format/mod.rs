//! How lists and documents are printed: `--format`, tables, and `--filter`.

pub(crate) mod filter;
pub(crate) mod table;
pub(crate) mod template;
pub(crate) mod units;

use serde_json::Value;

use template::{Error, Template};

/// How a list is printed, by docker's rules for `--format`.
#[derive(Debug, Clone)]
pub(crate) enum Listing {
    /// A table with a header; its cells are what the template makes of a row.
    Table(Template),
    /// A line each.
    Lines(Template),
    /// A JSON document on a line each.
    Json,
}

/// One line of a list.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row<'a> {
    /// What fields are taken from.
    pub(crate) document: &'a Value,
    /// What `.Label "name"` looks into.
    pub(crate) labels: &'a Value,
}

impl Listing {
    /// Reads the value of `--format`; without one, and for `table`, the table is that of `usual`.
    ///
    /// Errors: the template is none.
    pub(crate) fn parse(format: Option<&str>, usual: &str) -> Result<Self, Error> {
        let parse = |text: &str| {
            let text = text.trim_matches(' ').replace("\\t", "\t").replace("\\n", "\n");
            Template::parse(&text)
        };
        match format.map_or("table", |format| if format.is_empty() { "table" } else { format }) {
            "table" => Ok(Self::Table(parse(usual)?)),
            "json" => Ok(Self::Json),
            format => match format.strip_prefix("table") {
                Some(template) => Ok(Self::Table(parse(template)?)),
                None => Ok(Self::Lines(parse(format)?)),
            },
        }
    }

    /// Rows with what others have written, such that it cannot steer the terminal. JSON has everything as it is.
    pub(crate) fn fit(&self, rows: impl Iterator<Item = Value>) -> Vec<Value> {
        let is_json = matches!(self, Self::Json);
        let fit = |mut row: Value| {
            for field in row.as_object_mut().into_iter().flat_map(|fields| fields.values_mut()) {
                if let (Value::String(text), false) = (&mut *field, is_json) {
                    *text = plain(text);
                }
            }
            row
        };
        rows.map(fit).collect()
    }

    /// Prints `rows`; `names` is an object from all fields that a row has to what their columns are called.
    ///
    /// Errors: the template asks for what is not there.
    pub(crate) fn print(&self, rows: &[Row<'_>], names: &Value) -> Result<String, Error> {
        let lines = |template: &Template, text: &mut String| {
            rows.iter().try_for_each(|row| {
                text.push_str(&template.render(row.document, row.labels)?);
                text.push('\n');
                Ok(())
            })
        };
        match self {
            Self::Json => Ok(rows.iter().map(|row| format!("{}\n", row.document)).collect()),
            Self::Lines(template) => {
                // Says what is wrong with the template also when there is nothing to print.
                if rows.is_empty() {
                    template.header(names)?;
                }
                let mut text = String::new();
                lines(template, &mut text)?;
                Ok(text)
            }
            Self::Table(template) => {
                let mut text = template.header(names)? + "\n";
                lines(template, &mut text)?;
                Ok(table::aligned(&text))
            }
        }
    }
}

/// Text of another hand without control characters: blanks instead of those that separate, else U+FFFD.
pub(crate) fn plain(text: &str) -> String {
    let replace = |c: char| match c {
        '\t' | '\n' | '\r' => ' ',
        c if c.is_control() => char::REPLACEMENT_CHARACTER,
        c => c,
    };
    text.chars().map(replace).collect()
}

/// How `inspect` prints documents.
#[derive(Debug, Clone)]
pub(crate) enum Inspection {
    /// An array, for people.
    Pretty,
    /// An array on one line.
    Json,
    /// A line each.
    Lines(Template),
}

impl Inspection {
    /// Reads the value of `--format`.
    ///
    /// Errors: the template is none.
    pub(crate) fn parse(format: Option<&str>) -> Result<Self, Error> {
        match format {
            None | Some("") => Ok(Self::Pretty),
            Some("json") => Ok(Self::Json),
            Some(template) => Template::parse(template).map(Self::Lines),
        }
    }

    /// Prints `documents`.
    ///
    /// Errors: the template asks for what is not there.
    pub(crate) fn print(&self, documents: &[Value]) -> Result<String, Error> {
        match self {
            Self::Json => Ok(format!("{}\n", Value::from(documents))),
            Self::Pretty => Ok(pretty(&Value::from(documents))),
            Self::Lines(template) => {
                let line = |document: &Value| {
                    let labels = document.pointer("/Config/Labels").unwrap_or(&Value::Null);
                    template.render(document, labels).map(|line| line + "\n")
                };
                documents.iter().map(line).collect()
            }
        }
    }
}

/// Indented by four spaces, as docker does.
fn pretty(value: &Value) -> String {
    use serde::Serialize;
    let mut text = Vec::new();
    let indent = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut to = serde_json::Serializer::with_formatter(&mut text, indent);
    let written = value.serialize(&mut to);
    debug_assert!(written.is_ok(), "a document has nothing that JSON has not");
    text.push(b'\n');
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn print(format: Option<&str>, rows: &[Value]) -> Result<String, String> {
        let names = json!({"ID": "CONTAINER ID", "Names": "NAMES"});
        let labels = json!({"com.example.my-role": "db"});
        let rows: Vec<Row<'_>> = rows.iter().map(|document| Row { document, labels: &labels }).collect();
        let listing = Listing::parse(format, "{{.ID}}\\t{{.Names}}").map_err(|error| error.to_string())?;
        listing.print(&rows, &names).map_err(|error| error.to_string())
    }

    #[test]
    fn lists_are_printed_as_asked() {
        let rows = [json!({"ID": "2a2746dabd61", "Names": "web"}), json!({"ID": "35b8", "Names": "db"})];
        let check = |format: Option<&str>, expected: &str| {
            assert_eq!(print(format, &rows).as_deref(), Ok(expected), "{format:?}");
        };
        let usual = "CONTAINER ID   NAMES\n2a2746dabd61   web\n35b8           db\n";
        check(None, usual);
        check(Some(""), usual);
        check(Some("table"), usual);
        check(Some("table {{.ID}}\\t{{.Names}}"), usual);
        check(Some("table {{upper .Names}} {{.ID}}"), "NAMES CONTAINER ID\nWEB 2a2746dabd61\nDB 35b8\n");
        check(
            Some("table {{.Names}}\\t{{.Label \"com.example.my-role\"}}"),
            "NAMES     my role\nweb       db\ndb        db\n",
        );
        check(Some("  {{.Names}}\\n "), "web\n\ndb\n\n");
        check(
            Some("json"),
            "{\"ID\":\"2a2746dabd61\",\"Names\":\"web\"}\n{\"ID\":\"35b8\",\"Names\":\"db\"}\n",
        );
    }

    #[test]
    fn what_others_have_written_does_not_steer_the_terminal() {
        let check = |format: Option<&str>, expected: &str| {
            let listing = Listing::parse(format, "{{.ID}}").expect("a format");
            let rows = listing.fit([json!({"ID": "a\u{1b}]0;x\u{7}\u{9b}2J\tb\nc", "N": 1})].into_iter());
            assert_eq!((rows[0]["ID"].as_str(), &rows[0]["N"]), (Some(expected), &json!(1)), "{format:?}");
        };
        for format in [None, Some("{{.ID}}"), Some("table {{.ID}}")] {
            check(format, "a\u{fffd}]0;x\u{fffd}\u{fffd}2J b c");
        }
        check(Some("json"), "a\u{1b}]0;x\u{7}\u{9b}2J\tb\nc");
    }

    #[test]
    fn a_wrong_template_is_refused_also_for_an_empty_list() {
        let error = "template: :1:2: executing \"\" at <.Nope>: map has no entry for key \"Nope\"";
        for format in ["{{.Nope}}", "table{{.Nope}}"] {
            assert_eq!(print(Some(format), &[]), Err(error.into()), "{format}");
        }
        assert_eq!(print(Some("{{.ID"), &[]), Err("template: :1: unclosed action".into()));
        assert_eq!(print(Some("{{.ID}}"), &[]), Ok(String::new()));
        assert_eq!(print(None, &[]), Ok("CONTAINER ID   NAMES\n".into()));
    }

    #[test]
    fn documents_are_printed_as_asked() {
        let documents = [json!({"Id": "2a", "Config": {"Labels": {"a": "b"}}})];
        let check = |format: Option<&str>, expected: &str| {
            let printed = Inspection::parse(format).and_then(|inspection| inspection.print(&documents));
            assert_eq!(printed.as_deref(), Ok(expected), "{format:?}");
        };
        check(Some("{{.Id}}"), "2a\n");
        check(Some("{{.Label \"a\"}}"), "b\n");
        check(Some("json"), "[{\"Config\":{\"Labels\":{\"a\":\"b\"}},\"Id\":\"2a\"}]\n");
        let pretty = "[\n    {\n        \"Config\": {\n            \"Labels\": {\n                \"a\": \"b\"\n            }\n        },\n        \"Id\": \"2a\"\n    }\n]\n";
        check(None, pretty);
        check(Some(""), pretty);
        assert_eq!(Inspection::Pretty.print(&[]).as_deref(), Ok("[]\n"));
    }
}
