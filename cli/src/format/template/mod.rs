//! Templates for `--format`: the part of Go's `text/template` that people use with docker, over JSON documents.
//!
//! What works and fails there works and fails here, with the same words and positions where a document can tell. A
//! document has no types, so that what differs is this: an object prints as a map also where docker has a structure,
//! and `null` prints as `<nil>` also where docker has an empty list. There is no `call`, no `js`, and no template in a
//! template.
//!
//! | file | |
//! |---|---|
//! | `lex` | text → tokens |
//! | `parse` | tokens → tree |
//! | `eval` | tree and document → text |
//! | `functions`, `verbs`, `print` | what pipelines call, `printf`, how values look |

mod eval;
mod functions;
mod lex;
mod parse;
mod print;
#[cfg(test)]
mod tests;
mod verbs;

use std::fmt;

use serde_json::Value;

/// The longest text that a template may make of one document, bytes.
const OUTPUT_MAX_BYTES: usize = 16 << 20;

/// A template that has been understood.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    text: String,
    list: Vec<parse::Node>,
}

impl Template {
    /// Reads a template.
    ///
    /// Errors: it is none; the message begins with `template: :LINE: `.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        Ok(Self { text: text.to_owned(), list: parse::parse(text)? })
    }

    /// What the template makes of `document`. `labels`, an object, is what `.Label "name"` looks into.
    ///
    /// Errors: the document has not what is asked for, or a function refuses its arguments.
    pub(crate) fn render(&self, document: &Value, labels: &Value) -> Result<String, Error> {
        eval::run(&self.text, &self.list, document, eval::Purpose::Document { labels })
    }

    /// The line above a table: the names of the columns in the places of the fields. `names` is an object from fields
    /// to names.
    ///
    /// Errors: as with [`Template::render`].
    pub(crate) fn header(&self, names: &Value) -> Result<String, Error> {
        eval::run(&self.text, &self.list, names, eval::Purpose::Header)
    }
}

/// Why a template is none, or does not fit a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Error {
    line: usize,
    /// Where it went wrong in a document: the column, counted in bytes from 0, and the words of the template.
    place: Option<(usize, String)>,
    message: String,
}

impl Error {
    /// The text cannot be understood at the byte `at`.
    fn syntax(text: &str, at: usize, message: impl Into<String>) -> Self {
        Self { line: line(text, at), place: None, message: message.into() }
    }

    /// The document does not fit `words`, which stand at the byte `at`.
    fn execution(text: &str, at: usize, words: &str, message: impl Into<String>) -> Self {
        let before = &text.as_bytes()[..at.min(text.len())];
        let column = before.iter().rev().take_while(|byte| **byte != b'\n').count();
        Self { line: line(text, at), place: Some((column, words.trim().to_owned())), message: message.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            None => write!(f, "template: :{}: {}", self.line, self.message),
            Some((column, words)) => {
                write!(f, "template: :{}:{column}: executing \"\" at <{words}>: {}", self.line, self.message)
            }
        }
    }
}

impl std::error::Error for Error {}

/// The line of the byte `at`, from 1.
fn line(text: &str, at: usize) -> usize {
    1 + text.as_bytes()[..at.min(text.len())].iter().filter(|byte| **byte == b'\n').count()
}
