//! The log: what goes wrong, for whoever has called, and with `--debug` what is done.
//!
//! A failure is one line on standard error, `skiff-runtime: …`, and one in the file of `--log`, which containerd and podman
//! read: text as `time="…" level=error msg="…"`, or JSON with the same three keys. What libraries have to say (`tracing`)
//! goes to the file, or to standard error if there is none. Without a file, JSON that is asked for goes to standard error.

use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::args::{Global, LogFormat};
use crate::failure::{Context, Failure};
use crate::time;

/// Where lines go, and which.
#[derive(Debug, Clone)]
pub(crate) struct Log {
    file: Option<Arc<File>>,
    format: LogFormat,
    level: LevelFilter,
}

impl Default for Log {
    /// Standard error, as long as nothing else is known.
    fn default() -> Self {
        Self { file: None, format: LogFormat::default(), level: LevelFilter::WARN }
    }
}

impl Log {
    /// Opens the log as the command line wants it.
    pub(crate) fn open(global: &Global) -> Result<Self, Failure> {
        // Standard error gets every failure anyway.
        let path = global.log.as_deref().filter(|path| *path != Path::new("/dev/stderr"));
        let file = path.map(open).transpose()?.map(Arc::new);
        let level = if global.debug { LevelFilter::DEBUG } else { LevelFilter::WARN };
        Ok(Self { file, format: global.log_format, level })
    }

    /// Takes what libraries say from here on.
    pub(crate) fn listen(&self) {
        // Fails only if somebody listens already.
        let _listening = tracing::subscriber::set_global_default(self.clone());
    }

    /// Reports the failure that ends this process.
    pub(crate) fn fail(&self, failure: &Failure) {
        let message = failure.to_string();
        self.write("error", &message);
        if self.file.is_some() {
            to_stderr(&message);
        }
    }

    fn write(&self, level: &str, message: &str) {
        let line = || line(self.format, level, message, &time::now());
        // In one write, so that it stays one line; what cannot be written down has been tried.
        let _unwritten = match (self.file.as_deref(), self.format) {
            (Some(mut file), _) => file.write_all(line().as_bytes()),
            (None, LogFormat::Json) => std::io::stderr().write_all(line().as_bytes()),
            (None, LogFormat::Text) => return to_stderr(message),
        };
    }
}

fn open(path: &Path) -> Result<File, Failure> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o644);
    options.open(path).context(|| format!("open log {}", path.display()))
}

fn to_stderr(message: &str) {
    let _unreported = std::io::stderr().write_all(format!("skiff-runtime: {message}\n").as_bytes());
}

fn line(format: LogFormat, level: &str, message: &str, time: &str) -> String {
    match format {
        LogFormat::Json => {
            format!("{}\n", serde_json::json!({"level": level, "msg": message, "time": time}))
        }
        LogFormat::Text => format!("time=\"{time}\" level={level} msg={message:?}\n"),
    }
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= self.level
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level)
    }

    fn event(&self, event: &Event<'_>) {
        let level = match *event.metadata().level() {
            Level::ERROR => "error",
            Level::WARN => "warning",
            Level::INFO => "info",
            Level::DEBUG | Level::TRACE => "debug",
        };
        let mut message = Message::default();
        event.record(&mut message);
        self.write(level, &message.0);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// An event as one line: its message, then its fields.
#[derive(Default)]
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let separator = if self.0.is_empty() { "" } else { " " };
        // Writing to a string does not fail.
        let _written = match field.name() {
            "message" => write!(self.0, "{separator}{value:?}"),
            name => write!(self.0, "{separator}{name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_those_that_containerd_reads() {
        let at = "2026-01-02T03:04:05Z";
        assert_eq!(
            line(LogFormat::Json, "error", "no \"x\"", at),
            "{\"level\":\"error\",\"msg\":\"no \\\"x\\\"\",\"time\":\"2026-01-02T03:04:05Z\"}\n"
        );
        assert_eq!(
            line(LogFormat::Text, "error", "no \"x\"", at),
            "time=\"2026-01-02T03:04:05Z\" level=error msg=\"no \\\"x\\\"\"\n"
        );
    }

    #[test]
    fn what_libraries_say_arrives_up_to_the_level_asked_for() {
        let path = std::env::temp_dir().join(format!("skiff-log-{}", std::process::id()));
        let global = Global { log: Some(path.clone()), ..Global::default() };
        let log = Log::open(&global).expect("open");
        tracing::subscriber::with_default(log, || {
            tracing::warn!(signal = 9, "it is late");
            tracing::debug!("too much");
        });
        let text = std::fs::read_to_string(&path).expect("read");
        std::fs::remove_file(&path).expect("remove");
        assert!(text.starts_with("time=\""), "{text}");
        assert!(text.ends_with("\" level=warning msg=\"it is late signal=9\"\n"), "{text}");
    }
}
