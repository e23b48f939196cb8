//! `skiff login`, `skiff logout` and `skiff search`.

use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::os::fd::AsFd;

use nix::sys::termios::{self, LocalFlags, SetArg, Termios};
use serde_json::{Value, json};
use skiff_registry::{Credentials, Kept};

use super::pull::{TLS_VERIFY, elsewhere, registry};
use crate::client::{os, print, refused, template, understand};
use crate::failure::Failure;
use crate::format::units::ellipsis;
use crate::format::{Listing, Row};
use crate::line::{Command, Flag, Order, Rest, Section, add, put};
use crate::values::{boolean, integer};

/// The longest password, bytes.
const PASSWORD_MAX: u64 = 64 << 10;

/// What docker calls the registry that is meant without a name.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

#[derive(Debug, Default)]
pub(crate) struct Login {
    user: Option<String>,
    password: Option<String>,
    from_stdin: bool,
    tls_verify: Option<bool>,
}

pub(crate) static LOGIN: Command<Login> = Command {
    name: "login",
    operands: "[OPTIONS] [SERVER]",
    about: "\
Proves a user to a registry, docker.io unless another is named, and keeps that where docker does: in
~/.docker/config.json, or by the credential helper that is named there.
",
    sections: &[Section {
        title: "Options",
        flags: &[
            Flag::value(
                Some('p'),
                "password",
                "PASSWORD",
                "others can see it; better --password-stdin",
                |a, v| put(&mut a.password, Some(v.to_owned())),
            ),
            Flag::switch(None, "password-stdin", "read it from standard input", |a, on| a.from_stdin = on),
            Flag::switch(None, "tls-verify", TLS_VERIFY, |a, on| a.tls_verify = Some(on)),
            Flag::value(Some('u'), "username", "NAME", "who you are there", |a, v| {
                put(&mut a.user, Some(v.to_owned()))
            }),
        ],
    }],
    order: Order::Mixed,
    aliases: &[],
    unsupported: &[],
};

pub(crate) fn login(words: Rest<'_>) -> Result<u8, Failure> {
    let Some((args, operands)) = understand(&LOGIN, words)? else { return Ok(0) };
    let server = server(&LOGIN, operands)?;
    let wrong = |reason: &str| refused(Failure::engine(reason));
    let registry = registry(args.tls_verify)?;
    let kept_before = match (&args.user, &args.password, args.from_stdin) {
        (None, None, false) => registry.credentials(&server).map_err(elsewhere)?,
        (_, Some(_), true) => return Err(wrong("--password and --password-stdin are mutually exclusive")),
        (None, _, true) => return Err(wrong("must provide --username with --password-stdin")),
        _ => None,
    };
    let credentials = match kept_before {
        Some(credentials) => {
            print("Authenticating with existing credentials...\n")?;
            credentials
        }
        None => asked(args)?,
    };
    let kept = registry.login(&server, &credentials).map_err(elsewhere)?;
    if let Kept::File(path) = kept {
        eprintln!("WARNING! Your credentials are stored unencrypted in '{}'.", path.display());
    }
    print("Login Succeeded\n")
}

/// What was not given is asked for.
fn asked(args: Login) -> Result<Credentials, Failure> {
    let failed = |error: io::Error| refused(os("read the password", &error));
    let wrong = |reason: &str| refused(Failure::engine(reason));
    let is_complete = args.user.is_some() && (args.password.is_some() || args.from_stdin);
    if !is_complete && !io::stdin().is_terminal() {
        return Err(wrong("cannot perform an interactive login from a non TTY device"));
    }
    let user = match args.user {
        Some(user) => user,
        None => prompt("Username: ").map_err(failed)?,
    };
    let password = match args.password {
        Some(password) => {
            eprintln!("WARNING! Using --password via the CLI is insecure. Use --password-stdin.");
            password
        }
        None if args.from_stdin => {
            let mut text = String::new();
            io::stdin().lock().take(PASSWORD_MAX).read_to_string(&mut text).map_err(failed)?;
            // As docker does it: one end of a line is not the password's.
            let text = text.strip_suffix('\n').unwrap_or(&text);
            text.strip_suffix('\r').unwrap_or(text).to_owned()
        }
        None => secret("Password: ").map_err(failed)?,
    };
    if user.is_empty() {
        return Err(wrong("username is empty"));
    }
    if password.is_empty() {
        return Err(wrong("password is empty"));
    }
    Ok(Credentials::password(user, password))
}

/// Asks for a line.
fn prompt(text: &str) -> io::Result<String> {
    let mut out = io::stdout();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    Ok(line.trim().to_owned())
}

/// A terminal that shows nothing of what is typed, until dropped.
struct Hidden(Termios);

impl Hidden {
    /// Keys that end programs come as characters, or they would leave the terminal as it is.
    fn new() -> io::Result<Self> {
        let before = termios::tcgetattr(io::stdin().as_fd())?;
        let mut now = before.clone();
        now.local_flags &= !(LocalFlags::ECHO | LocalFlags::ICANON | LocalFlags::ISIG);
        termios::tcsetattr(io::stdin().as_fd(), SetArg::TCSAFLUSH, &now)?;
        Ok(Self(before))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        if let Err(error) = termios::tcsetattr(io::stdin().as_fd(), SetArg::TCSAFLUSH, &self.0) {
            tracing::warn!(%error, "show again what is typed");
        }
    }
}

/// Asks for a line that is not shown.
fn secret(text: &str) -> io::Result<String> {
    let hidden = Hidden::new()?;
    let mut out = io::stdout();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    let mut line = Vec::new();
    for byte in io::stdin().lock().bytes() {
        match byte? {
            b'\n' | b'\r' | 0x04 => break,
            0x03 | 0x1c => {
                drop(hidden);
                return Err(io::ErrorKind::Interrupted.into());
            }
            0x08 | 0x7f => drop(line.pop()),
            0x15 => line.clear(),
            byte => line.push(byte),
        }
    }
    drop(hidden);
    out.write_all(b"\n")?;
    String::from_utf8(line).map_err(|_| io::Error::other("not valid UTF-8"))
}

pub(crate) static LOGOUT: Command<()> = Command {
    name: "logout",
    operands: "[SERVER]",
    about: "\
Forgets who you are at a registry, docker.io unless another is named.
",
    sections: &[],
    order: Order::Mixed,
    aliases: &[],
    unsupported: &[],
};

pub(crate) fn logout(words: Rest<'_>) -> Result<u8, Failure> {
    let Some(((), operands)) = understand(&LOGOUT, words)? else { return Ok(0) };
    let server = server(&LOGOUT, operands)?;
    let shown = if server.is_empty() { DOCKER_HUB } else { &server };
    match registry(None)?.logout(&server).map_err(elsewhere)? {
        true => print(&format!("Removing login credentials for {shown}\n")),
        false => print(&format!("Not logged in to {shown}\n")),
    }
}

/// The registry that is meant; empty for docker.io.
fn server<A>(command: &Command<A>, operands: Vec<String>) -> Result<String, Failure> {
    match operands.as_slice() {
        [] => Ok(String::new()),
        [server] => Ok(server.clone()),
        [_, extra, ..] => Err(refused(command.usage(&format!("unexpected argument: {extra}")))),
    }
}

#[derive(Debug)]
pub(crate) struct Search {
    limit: usize,
    no_trunc: bool,
    filters: Vec<Filter>,
    format: Option<String>,
    tls_verify: Option<bool>,
}

impl Default for Search {
    fn default() -> Self {
        Self { limit: 25, no_trunc: false, filters: Vec::new(), format: None, tls_verify: None }
    }
}

/// What a hit must be like.
#[derive(Debug, Clone, Copy)]
enum Filter {
    Stars(u64),
    Official(bool),
    Automated(bool),
}

impl Filter {
    fn parse(word: &str) -> Result<Self, String> {
        let (key, value) = word.split_once('=').ok_or("expected name=value")?;
        match key.trim() {
            "stars" => Ok(Self::Stars(value.parse().map_err(|_| "stars is not a number".to_owned())?)),
            "is-official" => boolean(value).map(Self::Official),
            "is-automated" => boolean(value).map(Self::Automated),
            _ => Err("not stars, is-official or is-automated".into()),
        }
    }
}

pub(crate) static SEARCH: Command<Search> = Command {
    name: "search",
    operands: "[OPTIONS] [SERVER/]TERM",
    about: "\
Looks for repositories on docker.io, or on the registry that is named.
",
    sections: &[Section {
        title: "Options",
        flags: &[
            Flag::value(Some('f'), "filter", "KEY=VALUE", "by stars, is-official, is-automated", |a, v| {
                add(&mut a.filters, Filter::parse(v)?)
            }),
            Flag::value(
                None,
                "format",
                "FORMAT",
                "table, json, or a template of Go's: '{{.Name}}'",
                |a, v| put(&mut a.format, Some(v.to_owned())),
            ),
            Flag::value(None, "limit", "NUMBER", "at most so many, 1 to 100 (default 25)", |a, v| {
                put(&mut a.limit, usize::try_from(integer(v, 1..=100)?).unwrap_or(25))
            }),
            Flag::switch(None, "no-trunc", "show descriptions in full", |a, on| a.no_trunc = on),
            Flag::switch(None, "tls-verify", TLS_VERIFY, |a, on| a.tls_verify = Some(on)),
        ],
    }],
    order: Order::Mixed,
    aliases: &[],
    unsupported: &[],
};

/// The usual table.
const HITS: &str = "{{.Name}}\t{{.Description}}\t{{.StarCount}}\t{{.IsOfficial}}";

/// What is shown of a description unless all of it is wanted, in characters.
const DESCRIPTION_CHARACTERS: usize = 45;

pub(crate) fn search(words: Rest<'_>) -> Result<u8, Failure> {
    let Some((args, operands)) = understand(&SEARCH, words)? else { return Ok(0) };
    let term = match operands.as_slice() {
        [] => return Err(refused(SEARCH.usage("no term given"))),
        [term] => term,
        [_, extra, ..] => return Err(refused(SEARCH.usage(&format!("unexpected argument: {extra}")))),
    };
    let listing = Listing::parse(args.format.as_deref(), HITS).map_err(template)?;
    let (host, term) = split(term);
    let hits = registry(args.tls_verify)?.search(host, term, args.limit).map_err(elsewhere)?;
    let fits = |hit: &&skiff_registry::Hit| {
        args.filters.iter().all(|filter| match *filter {
            Filter::Stars(least) => hit.stars >= least,
            Filter::Official(wanted) => hit.is_official == wanted,
            Filter::Automated(wanted) => hit.is_automated == wanted,
        })
    };
    // As docker: words in JSON, marks elsewhere.
    let mark = |is: bool| match args.format.as_deref().map(str::trim) {
        Some("json" | "{{json .}}") => is.to_string(),
        _ if is => "[OK]".to_owned(),
        _ => String::new(),
    };
    let row = |hit: &skiff_registry::Hit| {
        let description = hit.description.replace(['\n', '\r', '\t'], " ");
        let text = if args.no_trunc { description } else { ellipsis(&description, DESCRIPTION_CHARACTERS) };
        json!({
            "Name": hit.name, "Description": text, "StarCount": hit.stars.to_string(),
            "IsOfficial": mark(hit.is_official), "IsAutomated": mark(hit.is_automated),
        })
    };
    let rows = listing.fit(hits.iter().filter(fits).map(row));
    let rows: Vec<Row<'_>> = rows.iter().map(|document| Row { document, labels: &Value::Null }).collect();
    let names = json!({
        "Name": "NAME", "Description": "DESCRIPTION", "StarCount": "STARS", "IsOfficial": "OFFICIAL",
        "IsAutomated": "AUTOMATED",
    });
    print(&listing.print(&rows, &names).map_err(template)?)
}

/// The registry, if one is named before the term.
fn split(text: &str) -> (&str, &str) {
    match text.split_once('/') {
        Some((host, term)) if host.contains(['.', ':']) || host == "localhost" => (host, term),
        _ => ("", text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_may_stand_before_the_term() {
        assert_eq!(split("nginx"), ("", "nginx"));
        assert_eq!(split("me/nginx"), ("", "me/nginx"));
        assert_eq!(split("localhost:5000/me/web"), ("localhost:5000", "me/web"));
    }

    #[test]
    fn filters_of_hits_are_docker_s() {
        assert!(matches!(Filter::parse("stars=3"), Ok(Filter::Stars(3))));
        assert!(matches!(Filter::parse("is-official=true"), Ok(Filter::Official(true))));
        for bad in ["stars", "stars=x", "is-official=maybe", "name=x"] {
            assert!(Filter::parse(bad).is_err(), "{bad}");
        }
    }
}
