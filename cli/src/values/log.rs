//! Where a container's output goes.

use skiff_engine::spec::{LogDriver, LogSpec};

use super::{Reason, sizes};

/// `--log-driver`. Docker's two drivers that keep files stand for skiff's own.
pub(crate) fn driver(text: &str) -> Result<LogDriver, Reason> {
    match text {
        "none" => Ok(LogDriver::None),
        "file" | "json-file" | "local" => Ok(LogDriver::File),
        "journald" => Ok(LogDriver::Journald),
        _ => Err("not none, file or journald".into()),
    }
}

/// One `--log-opt`.
pub(crate) fn option(text: &str, log: &mut LogSpec) -> Result<(), Reason> {
    let (key, value) = text.split_once('=').ok_or("not KEY=VALUE")?;
    match key {
        "max-size" => {
            let size = sizes::bytes(value)?;
            log.max_bytes = if size < 4096 { return Err("smaller than 4k".into()) } else { size };
        }
        "max-file" => {
            let count = value.parse().ok().filter(|count| (1..=10_000).contains(count));
            log.max_files = count.ok_or("not a number of files, 1 to 10000")?;
        }
        _ => return Err("not max-size or max-file".into()),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_are_bounded_by_size_and_number() {
        let mut log = LogSpec::default();
        assert_eq!(option("max-size=1m", &mut log), Ok(()));
        assert_eq!(option("max-file=5", &mut log), Ok(()));
        assert_eq!((log.max_bytes, log.max_files), (1 << 20, 5));
        for text in ["max-size", "max-size=-1", "max-size=1", "max-file=0", "max-file=x", "tag=a"] {
            assert!(option(text, &mut log).is_err(), "{text}");
        }
    }

    #[test]
    fn drivers_have_names() {
        assert_eq!(driver("none"), Ok(LogDriver::None));
        assert_eq!(driver("json-file"), Ok(LogDriver::File));
        assert!(driver("syslog").is_err());
    }
}
