//! Carries a template out on a document.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::functions::{self, Fault};
use super::parse::{Block, BlockKind, Command, Node, Operand, Pipe, Term};
use super::{Error, OUTPUT_MAX_BYTES, print};

/// How many pieces may be carried out for one document.
const STEPS_MAX: u32 = 10_000_000;

/// Objects whose keys are whatever people have written: a key that is not there is no mistake in the template.
const OPEN: [&str; 4] = ["Labels", "Annotations", "Options", "Sysctls"];

/// What the text is for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Purpose<'a> {
    /// It tells of a document, whose labels these are.
    Document { labels: &'a Value },
    /// It stands above a table; functions leave the names of columns alone.
    Header,
}

/// What `list` makes of `document`.
pub(super) fn run(
    text: &str,
    list: &[Node],
    document: &Value,
    purpose: Purpose<'_>,
) -> Result<String, Error> {
    let variables = vec![("$", Cow::Borrowed(document))];
    let mut run = Run { text, purpose, variables, out: String::new(), steps: 0, forgiving: false };
    run.list(list, &Cow::Borrowed(document))?;
    Ok(run.out)
}

type Data<'a> = Cow<'a, Value>;

struct Run<'a> {
    text: &'a str,
    purpose: Purpose<'a>,
    variables: Vec<(&'a str, Data<'a>)>,
    out: String,
    steps: u32,
    /// A condition asks whether something is there: what is not is `null`.
    forgiving: bool,
}

/// What to do after a piece.
#[derive(PartialEq, Eq)]
enum Flow {
    On,
    Break,
    Continue,
}

impl<'a> Run<'a> {
    fn failed(&self, operand: &Operand, message: impl Into<String>) -> Error {
        Error::execution(self.text, operand.at, &self.text[operand.span.clone()], message)
    }

    /// A failure of `command` as a whole.
    fn refused(&self, command: &Command, message: impl Into<String>) -> Error {
        Error::execution(self.text, command.span.start, &self.text[command.span.clone()], message)
    }

    fn step(&mut self, pipe: &Pipe) -> Result<(), Error> {
        self.steps += 1;
        if self.steps > STEPS_MAX {
            return Err(self.refused(&pipe.commands[0], "too much to do"));
        }
        if self.out.len() > OUTPUT_MAX_BYTES {
            return Err(self.refused(&pipe.commands[0], "too much output"));
        }
        Ok(())
    }

    fn list(&mut self, list: &'a [Node], dot: &Data<'a>) -> Result<Flow, Error> {
        for node in list {
            match node {
                Node::Text(text) => self.out.push_str(text),
                Node::Action(pipe) => {
                    let value = self.pipe(pipe, dot)?;
                    if pipe.variables.is_empty() {
                        print::value(&value, &mut self.out);
                    }
                }
                Node::Break => return Ok(Flow::Break),
                Node::Continue => return Ok(Flow::Continue),
                Node::Block(block) => {
                    let known = self.variables.len();
                    let flow = self.block(block, dot)?;
                    self.variables.truncate(known);
                    if flow != Flow::On {
                        return Ok(flow);
                    }
                }
            }
        }
        Ok(Flow::On)
    }

    fn block(&mut self, block: &'a Block, dot: &Data<'a>) -> Result<Flow, Error> {
        if block.kind == BlockKind::Range {
            return self.range(block, dot);
        }
        let before = std::mem::replace(&mut self.forgiving, true);
        let value = self.pipe(&block.pipe, dot);
        self.forgiving = before;
        let value = value?;
        match (is_true(&value), block.kind) {
            (false, _) => self.list(&block.otherwise, dot),
            (true, BlockKind::With) => self.list(&block.list, &value),
            (true, _) => self.list(&block.list, dot),
        }
    }

    fn range(&mut self, block: &'a Block, dot: &Data<'a>) -> Result<Flow, Error> {
        // Its variables get the elements, not the whole.
        let value = self.commands(&block.pipe, dot)?;
        let items: Box<dyn Iterator<Item = (Value, Data<'a>)>> = match value {
            Cow::Borrowed(Value::Array(list)) => {
                Box::new(list.iter().enumerate().map(|(at, item)| (at.into(), Cow::Borrowed(item))))
            }
            Cow::Owned(Value::Array(list)) => {
                Box::new(list.into_iter().enumerate().map(|(at, item)| (at.into(), Cow::Owned(item))))
            }
            Cow::Borrowed(Value::Object(map)) => {
                Box::new(map.iter().map(|(key, item)| (key.as_str().into(), Cow::Borrowed(item))))
            }
            Cow::Owned(Value::Object(map)) => {
                Box::new(map.into_iter().map(|(key, item)| (key.into(), Cow::Owned(item))))
            }
            Cow::Borrowed(Value::Null) | Cow::Owned(Value::Null) => Box::new(std::iter::empty()),
            value => match value.as_i64() {
                Some(count) => Box::new((0..count).map(|at| (at.into(), Cow::Owned(at.into())))),
                None => {
                    let shown = print::text(&value);
                    let operand = &block.pipe.commands[0].operands[0];
                    return Err(self.failed(operand, format!("range can't iterate over {shown}")));
                }
            },
        };
        let known = self.variables.len();
        let mut any = false;
        for (key, item) in items {
            any = true;
            self.step(&block.pipe)?;
            self.bind(&block.pipe, Cow::Owned(key), &item);
            let flow = self.list(&block.list, &item)?;
            self.variables.truncate(known);
            if flow == Flow::Break {
                break;
            }
        }
        if any { Ok(Flow::On) } else { self.list(&block.otherwise, dot) }
    }

    /// Gives the variables of a `range` their values: the last one the element, one before it the key.
    fn bind(&mut self, pipe: &'a Pipe, key: Data<'a>, item: &Data<'a>) {
        match pipe.variables.as_slice() {
            [] => {}
            [name] => self.set(name, item.clone(), pipe.assigns),
            [first, second, ..] => {
                self.set(first, key, pipe.assigns);
                self.set(second, item.clone(), pipe.assigns);
            }
        }
    }

    fn set(&mut self, name: &'a str, value: Data<'a>, is_there: bool) {
        match self.variables.iter_mut().rev().find(|(other, _)| is_there && *other == name) {
            Some(variable) => variable.1 = value,
            None => self.variables.push((name, value)),
        }
    }

    fn pipe(&mut self, pipe: &'a Pipe, dot: &Data<'a>) -> Result<Data<'a>, Error> {
        let value = self.commands(pipe, dot)?;
        if let Some(name) = pipe.variables.first() {
            self.set(name, value.clone(), pipe.assigns);
        }
        Ok(value)
    }

    fn commands(&mut self, pipe: &'a Pipe, dot: &Data<'a>) -> Result<Data<'a>, Error> {
        self.step(pipe)?;
        let mut value = None;
        for command in &pipe.commands {
            value = Some(self.command(command, value, dot)?);
        }
        Ok(value.unwrap_or(Cow::Owned(Value::Null)))
    }

    /// One command; `last` is what the one before it has made.
    fn command(
        &mut self,
        command: &'a Command,
        last: Option<Data<'a>>,
        dot: &Data<'a>,
    ) -> Result<Data<'a>, Error> {
        let (first, rest) = (&command.operands[0], &command.operands[1..]);
        match &first.term {
            Term::Function(name) => return self.call(name, command, last, dot),
            Term::Nil => return Err(self.failed(first, "nil is not a command")),
            Term::Fields(names) if names.len() == 1 && names[0] == "Label" => {
                if let ([_], None) | ([], Some(_)) = (rest, &last) {
                    let name = match last {
                        Some(name) => name,
                        None => self.operand(&rest[0], dot)?,
                    };
                    return self.label(first, &name).map(Cow::Owned);
                }
            }
            _ => {}
        }
        if rest.is_empty() && last.is_none() {
            return self.operand(first, dot);
        }
        let words = &self.text[first.span.clone()];
        Err(match &first.term {
            Term::Fields(names) | Term::Chain(_, names) => {
                let name = names.last().map_or("", String::as_str);
                self.failed(first, format!("{name} is not a method but has arguments"))
            }
            _ => self.failed(first, format!("can't give argument to non-function {words}")),
        })
    }

    fn operand(&mut self, operand: &'a Operand, dot: &Data<'a>) -> Result<Data<'a>, Error> {
        match &operand.term {
            Term::Dot => Ok(dot.clone()),
            Term::Nil => Ok(Cow::Owned(Value::Null)),
            Term::Literal(value) => Ok(Cow::Borrowed(value)),
            Term::Fields(names) => self.fields(operand, dot.clone(), names),
            Term::Variable(name, names) => {
                let found = self.variables.iter().rev().find(|(other, _)| other == name);
                let value = found.map_or(Cow::Owned(Value::Null), |(_, value)| value.clone());
                self.fields(operand, value, names)
            }
            Term::Parens(pipe) => self.pipe(pipe, dot),
            Term::Chain(base, names) => {
                let value = self.operand(base, dot)?;
                self.fields(operand, value, names)
            }
            Term::Function(name) => {
                let command = Command { operands: Vec::new(), span: operand.span.clone() };
                let called = functions::call(name, &[], self.is_header());
                called.map(Cow::Owned).map_err(|fault| self.fault(name, &command, operand, &[], fault))
            }
        }
    }

    fn fields(&self, operand: &Operand, mut value: Data<'a>, names: &'a [String]) -> Result<Data<'a>, Error> {
        let mut outer = "";
        for name in names {
            value = self.field(operand, value, outer, name)?;
            outer = name;
        }
        Ok(value)
    }

    /// The field `name` of `value`, which is the field `outer` of something.
    fn field(&self, operand: &Operand, value: Data<'a>, outer: &str, name: &str) -> Result<Data<'a>, Error> {
        let message = match value {
            Cow::Borrowed(Value::Object(map)) => match map.get(name) {
                Some(found) => return Ok(Cow::Borrowed(found)),
                None => absent(name),
            },
            Cow::Owned(Value::Object(mut map)) => match map.remove(name) {
                Some(found) => return Ok(Cow::Owned(found)),
                None => absent(name),
            },
            Cow::Borrowed(Value::Null) | Cow::Owned(Value::Null) => {
                format!("nil pointer evaluating interface {{}}.{name}")
            }
            other => {
                let kind = print::kind(&other);
                return Err(self.failed(operand, format!("can't evaluate field {name} in type {kind}")));
            }
        };
        if self.forgiving {
            return Ok(Cow::Owned(Value::Null));
        }
        if OPEN.contains(&outer) {
            return Ok(Cow::Owned("<no value>".into()));
        }
        Err(self.failed(operand, message))
    }

    /// `.Label "name"`: of a container, or the name of its column.
    fn label(&self, operand: &Operand, name: &Value) -> Result<Value, Error> {
        let Value::String(name) = name else {
            return Err(self.failed(operand, "expected string"));
        };
        match self.purpose {
            Purpose::Header => {
                let last = name.rsplit('.').next().unwrap_or_default();
                Ok(last.replace(['-', '_'], " ").into())
            }
            Purpose::Document { labels } => Ok(labels.get(name).cloned().unwrap_or_else(|| "".into())),
        }
    }

    const fn is_header(&self) -> bool {
        matches!(self.purpose, Purpose::Header)
    }

    fn call(
        &mut self,
        name: &'a str,
        command: &'a Command,
        last: Option<Data<'a>>,
        dot: &Data<'a>,
    ) -> Result<Data<'a>, Error> {
        let rest = &command.operands[1..];
        let mut values = Vec::with_capacity(rest.len() + 1);
        for operand in rest {
            let value = self.operand(operand, dot)?;
            // The first that decides is the result; what follows is not looked at.
            if (name == "and" && !is_true(&value)) || (name == "or" && is_true(&value)) {
                return Ok(value);
            }
            values.push(value);
        }
        values.extend(last);
        if matches!(name, "and" | "or") && !values.is_empty() {
            return Ok(values.pop().unwrap_or_default());
        }
        let args: Vec<&Value> = values.iter().map(AsRef::as_ref).collect();
        let called = functions::call(name, &args, self.is_header());
        called.map(Cow::Owned).map_err(|fault| self.fault(name, command, &command.operands[0], rest, fault))
    }

    fn fault(
        &self,
        name: &str,
        command: &Command,
        function: &Operand,
        args: &[Operand],
        fault: Fault,
    ) -> Error {
        match fault {
            Fault::Count { want, got } => {
                self.failed(function, format!("wrong number of args for {name}: want {want} got {got}"))
            }
            Fault::Kind { at, want, kind } => match args.get(at) {
                Some(operand) if matches!(operand.term, Term::Literal(_)) => {
                    let words = &self.text[operand.span.clone()];
                    self.failed(operand, format!("expected {want}; found {words}"))
                }
                Some(operand) => {
                    self.failed(operand, format!("wrong type for value; expected {want}; got {kind}"))
                }
                None => self.refused(command, format!("wrong type for value; expected {want}; got {kind}")),
            },
            Fault::Refused(message) => self.refused(command, format!("error calling {name}: {message}")),
        }
    }
}

fn absent(name: &str) -> String {
    format!("map has no entry for key {}", Value::from(name))
}

/// Whether a condition holds: not false, 0, null or empty.
pub(super) fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64().is_some_and(|number| number != 0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !Map::is_empty(map),
    }
}
