//! What an image's configuration adds to the options that flags decide, by docker's rules. Pure.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use skiff_runtime::Options;
use skiff_runtime::options::{self, Merged, Mount, Rootfs};
use skiff_runtime::signals;
use skiff_store::{Image, ImageConfig};

use crate::spec::{HealthSpec, HealthTest};
use crate::{Error, Spec};

/// The signal that asks a program to stop when neither the caller nor the image names one.
const DEFAULT_STOP_SIGNAL: i32 = libc::SIGTERM;

/// Completes the options of `spec` with what `image` brings along.
///
/// Errors: neither of them names a command.
pub fn fold(spec: &Spec, image: Image) -> Result<Options, Error> {
    let config = image.config;
    let mut options = spec.options.clone();
    options.argv = argv(spec, &config)?;
    options.env = config.env.iter().map(OsString::from).collect();
    options.env.extend_from_slice(&spec.env_file);
    options.env.extend_from_slice(&spec.env);
    options.user = spec.user.clone().unwrap_or(config.user);
    if options.cwd.as_os_str().is_empty() {
        options.cwd = Path::new("/").join(config.working_dir);
    }
    volumes(&mut options.mounts, &config.volumes)?;
    options.is_kept = !spec.auto_remove;
    options.labels = labels(config.labels, &spec.options.labels);
    options.merged = image.merged.map(|merged| Merged { tree: merged.tree, data: merged.data });
    options.rootfs = if image.layers.is_empty() { Rootfs::Host } else { Rootfs::Layers(image.layers) };
    Ok(options)
}

/// The signal that asks the program to stop: the caller's, else the image's, else `SIGTERM`.
///
/// Errors: the image names one that does not exist.
pub fn stop_signal(spec: &Spec, config: &ImageConfig) -> Result<i32, Error> {
    match (spec.stop_signal, config.stop_signal.as_deref()) {
        (Some(signal), _) => Ok(signal),
        (None, None | Some("")) => Ok(DEFAULT_STOP_SIGNAL),
        (None, Some(name)) => signals::signal(name)
            .map_err(|reason| Error::Invalid(format!("image's stop signal '{name}': {reason}"))),
    }
}

/// How health is found out: what the caller says, completed by what the image says.
///
/// A test of the caller's own goes with the times of the image, as docker has it. Errors: the image has a test that does not
/// exist.
pub fn health(spec: &Spec, config: &ImageConfig) -> Result<HealthSpec, Error> {
    let Some(image) = &config.healthcheck else { return Ok(spec.health.clone()) };
    let time = |ns: i64| u64::try_from(ns).ok().filter(|ns| *ns > 0).map(Duration::from_nanos);
    let own = spec.health.clone();
    Ok(HealthSpec {
        test: if own.test.is_some() { own.test } else { health_test(&image.test)? },
        interval: own.interval.or_else(|| time(image.interval_ns)),
        timeout: own.timeout.or_else(|| time(image.timeout_ns)),
        start_period: own.start_period.or_else(|| time(image.start_period_ns)),
        start_interval: own.start_interval.or_else(|| time(image.start_interval_ns)),
        retries: own.retries.or_else(|| u32::try_from(image.retries).ok().filter(|retries| *retries > 0)),
    })
}

fn health_test(words: &[String]) -> Result<Option<HealthTest>, Error> {
    match words {
        [] => Ok(None),
        [kind] if kind == "NONE" => Ok(Some(HealthTest::None)),
        [kind, text] if kind == "CMD-SHELL" => Ok(Some(HealthTest::Shell(text.clone()))),
        [kind, argv @ ..] if kind == "CMD" && !argv.is_empty() => {
            Ok(Some(HealthTest::Command(argv.to_vec())))
        }
        _ => Err(Error::Invalid(format!("image's health check {words:?}: neither NONE, CMD nor CMD-SHELL"))),
    }
}

/// Entrypoint and command joined. `--entrypoint` replaces both of the image; a command on the line replaces the
/// image's command alone.
fn argv(spec: &Spec, config: &ImageConfig) -> Result<Vec<OsString>, Error> {
    let own = |list: &[String]| list.iter().map(OsString::from).collect::<Vec<_>>();
    let (mut argv, default_command) = match &spec.entrypoint {
        Some(program) if program.is_empty() => (Vec::new(), Vec::new()),
        Some(program) => (vec![program.clone()], Vec::new()),
        None => (own(&config.entrypoint), own(&config.cmd)),
    };
    if spec.command.is_empty() {
        argv.extend(default_command);
    } else {
        argv.extend_from_slice(&spec.command);
    }
    if argv.is_empty() { Err(Error::Invalid("no command specified".into())) } else { Ok(argv) }
}

/// Adds the image's volumes where no mount of the caller's is.
fn volumes(all: &mut Vec<Mount>, volumes: &[String]) -> Result<(), Error> {
    for volume in volumes {
        let target: PathBuf = options::container_path(volume)
            .map_err(|reason| Error::Invalid(format!("image's volume '{volume}': {reason}")))?;
        if !all.iter().any(|mount| mount.target() == target) {
            all.push(Mount::Volume { target, read_only: false });
        }
    }
    Ok(())
}

/// The image's labels, overridden and followed by the caller's; the last of a name wins.
fn labels(image: Vec<(String, String)>, caller: &[(String, String)]) -> Vec<(String, String)> {
    let mut all = image;
    for (key, value) in caller {
        match all.iter_mut().find(|(other, _)| other == key) {
            Some(label) => label.1.clone_from(value),
            None => all.push((key.clone(), value.clone())),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_store::Healthcheck;

    fn spec(command: &str) -> Spec {
        Spec { command: words(command), ..Spec::default() }
    }

    fn words(line: &str) -> Vec<OsString> {
        strings(line).into_iter().map(OsString::from).collect()
    }

    fn strings(line: &str) -> Vec<String> {
        line.split(' ').filter(|word| !word.is_empty()).map(String::from).collect()
    }

    fn image(change: impl FnOnce(&mut ImageConfig)) -> Image {
        let mut image = Image { layers: vec!["/layer".into()], ..Image::default() };
        change(&mut image.config);
        image
    }

    #[test]
    fn entrypoint_and_command_follow_docker_s_rules() {
        let check =
            |image_entrypoint: &str, cmd: &str, entrypoint: Option<&str>, command: &str, expected: &str| {
                let image = image(|c| (c.entrypoint, c.cmd) = (strings(image_entrypoint), strings(cmd)));
                let spec = Spec { entrypoint: entrypoint.map(OsString::from), ..spec(command) };
                let argv = fold(&spec, image).map(|options| options.argv).map_err(|error| error.to_string());
                let expected = if expected.is_empty() {
                    Err("no command specified".to_owned())
                } else {
                    Ok(words(expected))
                };
                assert_eq!(argv, expected, "{image_entrypoint}, {cmd}: {entrypoint:?} {command}");
            };
        check("", "sh", None, "", "sh");
        check("", "sh -l", None, "ls /", "ls /");
        check("tini --", "sh", None, "", "tini -- sh");
        check("tini --", "sh", None, "ls", "tini -- ls");
        check("tini", "sh", Some("cat"), "", "cat");
        check("tini", "sh", Some("cat"), "/f", "cat /f");
        check("tini", "sh", Some(""), "ls", "ls");
        check("tini", "sh", Some(""), "", "");
        check("tini", "", None, "", "tini");
        check("", "", None, "", "");
    }

    #[test]
    fn variables_come_from_image_then_file_then_flags() {
        let spec = Spec { env_file: words("A=file B=file"), env: words("A=flag C=flag"), ..spec("true") };
        let options = fold(&spec, image(|c| c.env = strings("A=image PATH=/bin"))).expect("fold");
        assert_eq!(options.env, words("A=image PATH=/bin A=file B=file A=flag C=flag"));
    }

    #[test]
    fn flags_win_over_the_image() {
        let change = |c: &mut ImageConfig| (c.user, c.working_dir) = ("web".into(), "srv".into());
        let plain = fold(&spec("true"), image(change)).expect("fold");
        assert_eq!((plain.user.as_str(), plain.cwd), ("web", "/srv".into()));
        assert_eq!(plain.rootfs, Rootfs::Layers(vec!["/layer".into()]));
        let options = Options { cwd: "/tmp".into(), ..Options::default() };
        let asked =
            fold(&Spec { user: Some("7".into()), options, ..spec("true") }, image(change)).expect("fold");
        assert_eq!((asked.user.as_str(), asked.cwd), ("7", "/tmp".into()));
        let host = fold(&spec("true"), Image::default()).expect("fold");
        assert_eq!((host.cwd, host.rootfs), (PathBuf::from("/"), Rootfs::Host));
    }

    #[test]
    fn stop_signals_have_an_order() {
        let config = |name: &str| ImageConfig { stop_signal: Some(name.into()), ..ImageConfig::default() };
        assert_eq!(stop_signal(&spec(""), &ImageConfig::default()), Ok(15));
        assert_eq!(stop_signal(&spec(""), &config("SIGQUIT")), Ok(3));
        let asked = Spec { stop_signal: Some(9), ..spec("") };
        assert_eq!(stop_signal(&asked, &config("SIGQUIT")), Ok(9));
        let error = stop_signal(&spec(""), &config("SIGFOO")).expect_err("no such signal");
        assert_eq!(error.to_string(), "image's stop signal 'SIGFOO': no such signal");
    }

    #[test]
    fn health_checks_are_the_caller_s_then_the_image_s() {
        let check = |own: HealthSpec, test: &str, expected: HealthSpec| {
            let healthcheck =
                Healthcheck { test: strings(test), interval_ns: 7, retries: 2, ..Healthcheck::default() };
            let config = ImageConfig { healthcheck: Some(healthcheck), ..ImageConfig::default() };
            assert_eq!(health(&Spec { health: own, ..Spec::default() }, &config), Ok(expected), "{test}");
        };
        let of_image = |test: Option<HealthTest>| HealthSpec {
            test,
            interval: Some(Duration::from_nanos(7)),
            retries: Some(2),
            ..HealthSpec::default()
        };
        let none = HealthSpec::default;
        check(none(), "", of_image(None));
        check(none(), "NONE", of_image(Some(HealthTest::None)));
        check(none(), "CMD-SHELL true", of_image(Some(HealthTest::Shell("true".into()))));
        check(none(), "CMD a b", of_image(Some(HealthTest::Command(strings("a b")))));
        let tcp = HealthSpec { test: Some(HealthTest::Tcp(80)), retries: Some(9), ..none() };
        check(tcp.clone(), "CMD a", HealthSpec { interval: Some(Duration::from_nanos(7)), ..tcp.clone() });
        let own = Spec { health: tcp.clone(), ..Spec::default() };
        assert_eq!(health(&own, &ImageConfig::default()), Ok(tcp));
        for test in ["CMD", "CMD-SHELL a b", "HTTP x"] {
            assert!(health_test(&strings(test)).is_err(), "{test}");
        }
    }

    #[test]
    fn volumes_of_the_image_yield_to_mounts() {
        let mount = Mount::Tmpfs { target: "/data".into(), options: Vec::new() };
        let asked = Options { mounts: vec![mount], ..Options::default() };
        let spec = Spec { options: asked, ..spec("true") };
        let options = fold(&spec, image(|c| c.volumes = strings("/data/ /logs"))).expect("fold");
        let targets: Vec<&Path> = options.mounts.iter().map(Mount::target).collect();
        assert_eq!(targets, [Path::new("/data"), Path::new("/logs")]);
        assert_eq!(options.mounts[1], Mount::Volume { target: "/logs".into(), read_only: false });
        let error = fold(&spec, image(|c| c.volumes = strings("data"))).expect_err("relative");
        assert_eq!(error.to_string(), "image's volume 'data': the container path 'data' is not absolute");
    }

    #[test]
    fn labels_of_the_caller_win() {
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let asked =
            Options { labels: vec![pair("b", "2"), pair("c", "3"), pair("c", "4")], ..Options::default() };
        let spec = Spec { options: asked, ..spec("true") };
        let options = fold(&spec, image(|c| c.labels = vec![pair("a", "0"), pair("b", "1")])).expect("fold");
        assert_eq!(options.labels, [pair("a", "0"), pair("b", "2"), pair("c", "4")]);
    }
}
