//! Command lines of `skiff bench`.

use super::*;

fn parse(line: &[&str]) -> Result<Option<(Args, Vec<String>)>, String> {
    let mut args = Args::default();
    let words = line.iter().map(OsString::from).collect();
    let message = |failure: Failure| failure.message;
    let Some(rest) = COMMAND.leading(&mut args, words).map_err(message)? else { return Ok(None) };
    let Some(sides) = side::parse(rest, &args.separator).map_err(message)? else { return Ok(None) };
    consistent(&args, sides.len()).map_err(message)?;
    Ok(Some((args, sides.into_iter().map(|side| side.words).collect())))
}

#[test]
fn the_first_separator_begins_b() {
    let check = |line: &[&str], expected: &[&str]| {
        let (_, sides) = parse(line).expect("understood").expect("no help");
        assert_eq!(sides, expected, "{line:?}");
    };
    check(&["host", "true"], &["host true"]);
    check(&["host", "true", "--", "host", "false"], &["host true", "host false"]);
    check(&["-n", "5", "-m", "64m", "a", "--", "-m1g", "b", "--", "-x"], &["-m 64m a", "-m1g b -- -x"]);
    check(&["--separator", "::", "a", "x", "--", "y", "::", "b"], &["a x -- y", "b"]);
    check(&["a", "sh", "-c", "a; b", "--", "b", ""], &["a sh -c 'a; b'", "b ''"]);
}

#[test]
fn flags_of_bench_come_first() {
    let line =
        ["--precision=1%", "--fail-if", "wall > +3%", "--html", "x", "--max-time", "5s", "a", "--", "b"];
    let (args, _) = parse(&line).expect("understood").expect("no help");
    assert!((args.stopping.precision - 0.01).abs() < 1e-12);
    assert_eq!((args.limits.len(), args.max_time), (1, Duration::from_secs(5)));
    assert!(parse(&["--help"]).expect("understood").is_none());
    assert!(parse(&["a", "--", "--help"]).expect("understood").is_none());
}

#[test]
fn what_is_not_understood_is_refused() {
    let check = |line: &[&str], expected: &str| {
        let message = parse(line).err().unwrap_or_default();
        assert!(message.contains(expected), "{line:?}: {message:?}");
    };
    check(&[], "A: no image given");
    check(&["--", "b"], "A: no image given");
    check(&["a", "--"], "B: no image given");
    check(&["--nope", "a"], "A: unknown flag: --nope");
    check(&["-m", "64m", "--precision", "1%", "a"], "--precision is one of bench's, which come first");
    check(&["-it", "a"], "A: --interactive does not go with bench");
    check(&["a", "--", "-d", "b"], "B: --detach does not go with bench");
    check(&["--precision", "0%", "a"], "from 0.001% to 100%");
    check(&["--runs", "1", "a"], "--runs");
    check(&["--min-runs", "9", "--max-runs", "8", "a"], "--min-runs is above --max-runs");
    check(&["--fail-if", "speed > +1%", "a"], "no such metric");
    check(&["--fail-if", "wall > +1%", "a"], "there is no B");
    check(&["-n", "5", "--fail-if", "wall > 1s", "a"], "needs at least 6 pairs");
    check(&["--fail-if", "wall > +1%", "--min-runs", "2", "a", "--", "b"], "needs at least 6 pairs");
    check(&["--fail-if", "syscalls > +1", "a", "--", "b"], "needs --syscalls");
    check(&["--format", "xml", "a"], "neither text nor json");
    check(&["--statistic", "mode", "a"], "neither median nor mean");
}
