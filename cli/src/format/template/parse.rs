//! Makes a tree of a template's tokens.

use std::ops::Range;

use serde_json::Value;

use super::lex::{self, Kind, Token};
use super::{Error, functions};

/// How deep parentheses and blocks may stand in each other.
const DEPTH_MAX: u32 = 100;

/// A piece of a template.
#[derive(Debug, Clone)]
pub(super) enum Node {
    Text(String),
    Action(Pipe),
    Block(Box<Block>),
    Break,
    Continue,
}

/// `if`, `with` or `range`, up to its `end`.
#[derive(Debug, Clone)]
pub(super) struct Block {
    pub(super) kind: BlockKind,
    pub(super) pipe: Pipe,
    pub(super) list: Vec<Node>,
    pub(super) otherwise: Vec<Node>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BlockKind {
    If,
    With,
    Range,
}

impl BlockKind {
    const fn word(self) -> &'static str {
        match self {
            Self::If => "if",
            Self::With => "with",
            Self::Range => "range",
        }
    }

    fn of(word: &str) -> Option<Self> {
        [Self::If, Self::With, Self::Range].into_iter().find(|kind| kind.word() == word)
    }
}

/// Commands, each of which gets the value of the one before as its last argument.
#[derive(Debug, Clone)]
pub(super) struct Pipe {
    /// Variables that get the value.
    pub(super) variables: Vec<String>,
    /// The variables are there already.
    pub(super) assigns: bool,
    pub(super) commands: Vec<Command>,
}

/// An operand, or a function with its arguments.
#[derive(Debug, Clone)]
pub(super) struct Command {
    pub(super) operands: Vec<Operand>,
    pub(super) span: Range<usize>,
}

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Operand {
    pub(super) term: Term,
    /// Where errors say that it is, which for `.A.B` is the second field.
    pub(super) at: usize,
    pub(super) span: Range<usize>,
}

#[derive(Debug, Clone)]
pub(super) enum Term {
    Dot,
    Nil,
    Literal(Value),
    Function(String),
    /// `.A.B`.
    Fields(Vec<String>),
    /// `$x.A.B`.
    Variable(String, Vec<String>),
    Parens(Box<Pipe>),
    /// `(…).A.B`.
    Chain(Box<Operand>, Vec<String>),
}

/// Reads a template.
pub(super) fn parse(text: &str) -> Result<Vec<Node>, Error> {
    let mut parser =
        Parser { text, tokens: lex::tokens(text), next: 0, variables: vec!["$".into()], depth: 0, loops: 0 };
    let (list, end) = parser.list()?;
    match end {
        Ending::Text => Ok(list),
        Ending::End => Err(parser.failed("unexpected {{end}}")),
        Ending::Else => Err(parser.failed("unexpected {{else}}")),
    }
}

struct Parser<'a> {
    text: &'a str,
    tokens: Vec<Token>,
    next: usize,
    variables: Vec<String>,
    depth: u32,
    /// How many `range` there are around.
    loops: u32,
}

/// What ended a list.
#[derive(PartialEq, Eq)]
enum Ending {
    Text,
    End,
    /// `else`; the rest of that action is still there.
    Else,
}

impl Parser<'_> {
    fn peek(&self) -> &Token {
        // The last token, an end or an error, is never passed.
        &self.tokens[self.next.min(self.tokens.len() - 1)]
    }

    fn take(&mut self) -> Token {
        let token = self.peek().clone();
        self.next += 1;
        token
    }

    fn failed(&self, message: impl Into<String>) -> Error {
        Error::syntax(self.text, self.peek().start, message)
    }

    /// The next token is not what can stand here.
    fn unexpected(&self, context: &str) -> Error {
        let token = self.peek();
        let words = self.text.get(token.start..token.end).unwrap_or_default();
        let shown = match &token.kind {
            Kind::Error(message) => return self.failed(message.clone()),
            Kind::End => return self.failed("unexpected EOF"),
            Kind::Word(word) if is_keyword(word) => format!("<{word}>"),
            _ if words.chars().count() > 10 => {
                format!("{}...", Value::from(words.chars().take(10).collect::<String>()))
            }
            _ => Value::from(words).to_string(),
        };
        self.failed(format!("unexpected {shown} in {context}"))
    }

    /// Takes the next token if it is of this kind.
    fn expect(&mut self, kind: &Kind, context: &str) -> Result<(), Error> {
        if self.peek().kind != *kind {
            return Err(self.unexpected(context));
        }
        self.next += 1;
        Ok(())
    }

    fn deeper(&mut self) -> Result<(), Error> {
        self.depth += 1;
        if self.depth > DEPTH_MAX { Err(self.failed("nested too deeply")) } else { Ok(()) }
    }

    fn list(&mut self) -> Result<(Vec<Node>, Ending), Error> {
        let mut list = Vec::new();
        loop {
            match &self.peek().kind {
                Kind::End => return Ok((list, Ending::Text)),
                Kind::Text(text) => {
                    list.push(Node::Text(text.clone()));
                    self.next += 1;
                }
                Kind::Open => {
                    self.next += 1;
                    if let Some(end) = self.action(&mut list)? {
                        return Ok((list, end));
                    }
                }
                _ => return Err(self.unexpected("input")),
            }
        }
    }

    /// One action; what it ends, if it does.
    fn action(&mut self, list: &mut Vec<Node>) -> Result<Option<Ending>, Error> {
        let word = match &self.peek().kind {
            Kind::Word(word) if is_keyword(word) => word.clone(),
            _ => {
                list.push(Node::Action(self.pipe("command", &Kind::Close)?));
                return Ok(None);
            }
        };
        if let Some(kind) = BlockKind::of(&word) {
            self.next += 1;
            list.push(self.block(kind)?);
            return Ok(None);
        }
        match word.as_str() {
            "end" => {
                self.next += 1;
                self.expect(&Kind::Close, "end")?;
                Ok(Some(Ending::End))
            }
            "else" => {
                self.next += 1;
                Ok(Some(Ending::Else))
            }
            "break" | "continue" => {
                if self.loops == 0 {
                    return Err(self.failed(format!("{{{{{word}}}}} outside {{{{range}}}}")));
                }
                self.next += 1;
                self.expect(&Kind::Close, &format!("{{{{{word}}}}}"))?;
                list.push(if word == "break" { Node::Break } else { Node::Continue });
                Ok(None)
            }
            "nil" => {
                list.push(Node::Action(self.pipe("command", &Kind::Close)?));
                Ok(None)
            }
            _ => Err(self.failed(format!("{{{{{word}}}}} is not supported"))),
        }
    }

    /// A block, after the word that begins it.
    fn block(&mut self, kind: BlockKind) -> Result<Node, Error> {
        self.deeper()?;
        let known = self.variables.len();
        let pipe = self.pipe(kind.word(), &Kind::Close)?;
        self.loops += u32::from(kind == BlockKind::Range);
        let (list, end) = self.list()?;
        self.loops -= u32::from(kind == BlockKind::Range);
        let otherwise = match end {
            Ending::Text => return Err(self.failed("unexpected EOF")),
            Ending::End => Vec::new(),
            Ending::Else => self.otherwise(kind)?,
        };
        self.variables.truncate(known);
        self.depth -= 1;
        Ok(Node::Block(Box::new(Block { kind, pipe, list, otherwise })))
    }

    /// What follows `else`: another block that has the same end, or a list.
    fn otherwise(&mut self, kind: BlockKind) -> Result<Vec<Node>, Error> {
        let next = match &self.peek().kind {
            Kind::Word(word) => BlockKind::of(word),
            _ => None,
        };
        if next == Some(kind) && kind != BlockKind::Range {
            self.next += 1;
            return Ok(vec![self.block(kind)?]);
        }
        self.expect(&Kind::Close, "else")?;
        match self.list()? {
            (list, Ending::End) => Ok(list),
            (_, Ending::Text) => Err(self.failed("unexpected EOF")),
            (_, Ending::Else) => Err(self.failed("expected end; found {{else}}")),
        }
    }

    fn pipe(&mut self, context: &str, end: &Kind) -> Result<Pipe, Error> {
        let (variables, assigns) = self.variables(context)?;
        let mut commands = Vec::new();
        loop {
            if matches!(self.peek().kind, Kind::End) {
                return Err(self.unexpected(context));
            }
            if self.peek().kind == *end {
                break;
            }
            commands.push(self.command(context)?);
            if self.peek().kind == Kind::Pipe {
                self.next += 1;
            }
        }
        self.check(&commands, context)?;
        self.next += 1;
        if !assigns {
            self.variables.extend_from_slice(&variables);
        }
        Ok(Pipe { variables, assigns, commands })
    }

    fn check(&self, commands: &[Command], context: &str) -> Result<(), Error> {
        if commands.is_empty() {
            return Err(self.failed(format!("missing value for {context}")));
        }
        let is_value =
            |command: &Command| matches!(command.operands[0].term, Term::Dot | Term::Nil | Term::Literal(_));
        match commands.iter().skip(1).position(is_value) {
            Some(at) => Err(self.failed(format!("non executable command in pipeline stage {}", at + 2))),
            None => Ok(()),
        }
    }

    /// `$a :=`, `$a =`, or `$a, $b :=` in a `range`.
    fn variables(&mut self, context: &str) -> Result<(Vec<String>, bool), Error> {
        let mut names = Vec::new();
        let begin = self.next;
        while let Kind::Variable(name) = self.peek().kind.clone() {
            self.next += 1;
            names.push(name);
            match self.peek().kind {
                Kind::Declare => {
                    self.next += 1;
                    return Ok((names, false));
                }
                Kind::Assign => {
                    self.next += 1;
                    if let Some(name) = names.iter().find(|name| !self.variables.contains(name)) {
                        return Err(self.failed(format!("undefined variable {name:?}")));
                    }
                    return Ok((names, true));
                }
                Kind::Comma if context == "range" && names.len() == 1 => self.next += 1,
                Kind::Comma if names.len() > 1 || context != "range" => {
                    return Err(self.failed(format!("too many declarations in {context}")));
                }
                _ if names.len() == 1 => break,
                _ => return Err(self.unexpected(context)),
            }
        }
        if names.len() == 1 && self.next != begin + 1 {
            return Err(self.unexpected(context));
        }
        self.next = begin;
        Ok((Vec::new(), false))
    }

    fn command(&mut self, context: &str) -> Result<Command, Error> {
        let start = self.peek().start;
        let mut operands: Vec<Operand> = Vec::new();
        loop {
            match self.peek().kind {
                Kind::Close | Kind::ParenClose | Kind::Pipe if !operands.is_empty() => break,
                _ if operands.is_empty() => operands.push(self.operand(context)?),
                _ if self.peek().spaced => operands.push(self.operand("operand")?),
                _ => return Err(self.unexpected("operand")),
            }
        }
        let end = operands.last().map_or(start, |operand| operand.span.end);
        Ok(Command { operands, span: start..end })
    }

    fn operand(&mut self, context: &str) -> Result<Operand, Error> {
        let mut operand = self.term(context)?;
        let mut more = Vec::new();
        while let (Kind::Field(name), false) = (self.peek().kind.clone(), self.peek().spaced) {
            let token = self.take();
            if more.is_empty() {
                operand.at = token.start;
            }
            operand.span.end = token.end;
            more.push(name);
        }
        if more.is_empty() {
            return Ok(operand);
        }
        let span = operand.span.clone();
        operand.term = match operand.term {
            Term::Fields(names) => Term::Fields([names, more].concat()),
            Term::Variable(variable, _) => Term::Variable(variable, more),
            Term::Dot | Term::Nil | Term::Literal(_) => {
                let first = &self.text[span.start..operand.at];
                return Err(self.failed(format!("unexpected . after term {}", Value::from(first))));
            }
            term => {
                let at = span.start;
                let base = Operand { term, at, span: at..operand.at };
                Term::Chain(Box::new(base), more)
            }
        };
        Ok(operand)
    }

    fn term(&mut self, context: &str) -> Result<Operand, Error> {
        let Token { kind, start, mut end, .. } = self.peek().clone();
        let term = match kind {
            Kind::Dot => Term::Dot,
            Kind::Field(name) => Term::Fields(vec![name]),
            Kind::Str(text) => Term::Literal(text.into()),
            Kind::Number(number) => Term::Literal(Value::Number(number)),
            Kind::Variable(name) if self.variables.contains(&name) => Term::Variable(name, Vec::new()),
            Kind::Variable(name) => return Err(self.failed(format!("undefined variable {name:?}"))),
            Kind::Word(word) => match word.as_str() {
                "nil" => Term::Nil,
                "true" | "false" => Term::Literal((word == "true").into()),
                word if is_keyword(word) => return Err(self.unexpected(context)),
                word if functions::exists(word) => Term::Function(word.to_owned()),
                word => return Err(self.failed(format!("function {word:?} not defined"))),
            },
            Kind::ParenOpen => {
                self.next += 1;
                self.deeper()?;
                let pipe = self.pipe("parenthesized pipeline", &Kind::ParenClose)?;
                self.depth -= 1;
                self.next -= 1;
                end = self.peek().end;
                Term::Parens(Box::new(pipe))
            }
            _ => return Err(self.unexpected(context)),
        };
        self.next += 1;
        Ok(Operand { term, at: start, span: start..end })
    }
}

fn is_keyword(word: &str) -> bool {
    BlockKind::of(word).is_some()
        || matches!(word, "else" | "end" | "break" | "continue" | "define" | "template" | "block" | "nil")
}
