//! What an image's configuration adds to the options that flags decide, by docker's rules. Pure.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use skiff_runtime::Options;
use skiff_runtime::options::{Mount, Rootfs};
use skiff_store::{Image, ImageConfig};

use crate::args::Args;
use crate::failure::Failure;
use crate::values::{mounts, signals};

/// The signal that asks a program to stop when neither the caller nor the image names one.
const DEFAULT_STOP_SIGNAL: i32 = libc::SIGTERM;

/// Completes the options of `args` with what `image` brings along.
///
/// Errors: neither of them names a command.
pub(crate) fn fold(args: &Args, image: Image) -> Result<Options, Failure> {
    let config = image.config;
    let mut options = args.options.clone();
    options.argv = argv(args, &config)?;
    options.env = config.env.iter().map(OsString::from).collect();
    options.env.extend_from_slice(&args.env_file);
    options.env.extend_from_slice(&args.env);
    options.user = args.user.clone().unwrap_or(config.user);
    if options.cwd.as_os_str().is_empty() {
        options.cwd = Path::new("/").join(config.working_dir);
    }
    volumes(&mut options.mounts, &config.volumes)?;
    options.labels = labels(config.labels, &args.options.labels);
    options.rootfs = if image.layers.is_empty() { Rootfs::Host } else { Rootfs::Layers(image.layers) };
    Ok(options)
}

/// The signal that asks the program to stop: the caller's, else the image's, else `SIGTERM`.
///
/// Errors: the image names one that does not exist.
pub(crate) fn stop_signal(args: &Args, config: &ImageConfig) -> Result<i32, Failure> {
    match (args.stop_signal, config.stop_signal.as_deref()) {
        (Some(signal), _) => Ok(signal),
        (None, None | Some("")) => Ok(DEFAULT_STOP_SIGNAL),
        (None, Some(name)) => signals::signal(name)
            .map_err(|reason| Failure::engine(format!("image's stop signal '{name}': {reason}"))),
    }
}

/// Entrypoint and command joined. `--entrypoint` replaces both of the image; a command on the line replaces the
/// image's command alone.
fn argv(args: &Args, config: &ImageConfig) -> Result<Vec<OsString>, Failure> {
    let own = |list: &[String]| list.iter().map(OsString::from).collect::<Vec<_>>();
    let (mut argv, default_command) = match &args.entrypoint {
        Some(program) if program.is_empty() => (Vec::new(), Vec::new()),
        Some(program) => (vec![program.clone()], Vec::new()),
        None => (own(&config.entrypoint), own(&config.cmd)),
    };
    if args.command.is_empty() {
        argv.extend(default_command);
    } else {
        argv.extend_from_slice(&args.command);
    }
    if argv.is_empty() { Err(Failure::engine("no command specified")) } else { Ok(argv) }
}

/// Adds the image's volumes where no mount of the caller's is.
fn volumes(all: &mut Vec<Mount>, volumes: &[String]) -> Result<(), Failure> {
    for volume in volumes {
        let target: PathBuf = mounts::target(volume)
            .map_err(|reason| Failure::engine(format!("image's volume '{volume}': {reason}")))?;
        if !all.iter().any(|mount| mounts::target_of(mount) == target) {
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
    use crate::args::{Parsed, parse};

    fn args(line: &str) -> Args {
        let words = line.split(' ').filter(|word| !word.is_empty()).map(OsString::from);
        match parse(words) {
            Ok(Parsed::Run(args)) => *args,
            other => panic!("{line}: {other:?}"),
        }
    }

    fn strings(line: &str) -> Vec<String> {
        line.split(' ').filter(|word| !word.is_empty()).map(String::from).collect()
    }

    fn image(change: impl FnOnce(&mut ImageConfig)) -> Image {
        let mut image = Image { layers: vec!["/layer".into()], ..Image::default() };
        change(&mut image.config);
        image
    }

    fn folded(line: &str, change: impl FnOnce(&mut ImageConfig)) -> Options {
        fold(&args(line), image(change)).expect(line)
    }

    #[test]
    fn entrypoint_and_command_follow_docker_s_rules() {
        let check = |entrypoint: &str, cmd: &str, line: &str, expected: &str| {
            let image = image(|c| (c.entrypoint, c.cmd) = (strings(entrypoint), strings(cmd)));
            let argv =
                fold(&args(line), image).map(|options| options.argv).map_err(|failure| failure.message);
            let expected = if expected.is_empty() {
                Err("no command specified".to_owned())
            } else {
                Ok(strings(expected).into_iter().map(OsString::from).collect())
            };
            assert_eq!(argv, expected, "{entrypoint}, {cmd}: {line}");
        };
        check("", "sh", "x", "sh");
        check("", "sh -l", "x ls /", "ls /");
        check("tini --", "sh", "x", "tini -- sh");
        check("tini --", "sh", "x ls", "tini -- ls");
        check("tini", "sh", "--entrypoint cat x", "cat");
        check("tini", "sh", "--entrypoint cat x /f", "cat /f");
        check("tini", "sh", "--entrypoint= x ls", "ls");
        check("tini", "sh", "--entrypoint= x", "");
        check("tini", "", "x", "tini");
        check("", "", "x", "");
    }

    #[test]
    fn variables_come_from_image_then_file_then_flags() {
        let mut args = args("-e A=flag -e C=flag x true");
        args.env_file = vec!["A=file".into(), "B=file".into()];
        let options = fold(&args, image(|c| c.env = strings("A=image PATH=/bin"))).expect("fold");
        let expected = strings("A=image PATH=/bin A=file B=file A=flag C=flag");
        assert_eq!(options.env, expected.into_iter().map(OsString::from).collect::<Vec<_>>());
    }

    #[test]
    fn flags_win_over_the_image() {
        let change = |c: &mut ImageConfig| (c.user, c.working_dir) = ("web".into(), "srv".into());
        let plain = folded("x true", change);
        assert_eq!((plain.user.as_str(), plain.cwd), ("web", "/srv".into()));
        let asked = folded("-u 7 -w /tmp x true", change);
        assert_eq!((asked.user.as_str(), asked.cwd), ("7", "/tmp".into()));
        assert_eq!(folded("x true", |_| {}).cwd, PathBuf::from("/"));
        assert_eq!(plain.rootfs, Rootfs::Layers(vec!["/layer".into()]));
        let host = fold(&args("host true"), Image::default()).expect("fold");
        assert_eq!(host.rootfs, Rootfs::Host);
    }

    #[test]
    fn stop_signals_have_an_order() {
        let config = |name: &str| ImageConfig { stop_signal: Some(name.into()), ..ImageConfig::default() };
        assert_eq!(stop_signal(&args("x"), &ImageConfig::default()), Ok(15));
        assert_eq!(stop_signal(&args("x"), &config("SIGQUIT")), Ok(3));
        assert_eq!(stop_signal(&args("--stop-signal 9 x"), &config("SIGQUIT")), Ok(9));
        let failure = stop_signal(&args("x"), &config("SIGFOO")).expect_err("no such signal");
        assert_eq!(failure.message, "image's stop signal 'SIGFOO': no such signal");
    }

    #[test]
    fn volumes_of_the_image_yield_to_mounts() {
        let options = folded("-v /host:/data x true", |c| c.volumes = strings("/data/ /logs"));
        let targets: Vec<&Path> = options.mounts.iter().map(mounts::target_of).collect();
        assert_eq!(targets, [Path::new("/data"), Path::new("/logs")]);
        assert_eq!(options.mounts[1], Mount::Volume { target: "/logs".into(), read_only: false });
        let failure = fold(&args("x true"), image(|c| c.volumes = strings("data"))).expect_err("relative");
        assert_eq!(failure.message, "image's volume 'data': the container path 'data' is not absolute");
    }

    #[test]
    fn labels_of_the_caller_win() {
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let options =
            folded("-l b=2 -l c=3 -l c=4 x true", |c| c.labels = vec![pair("a", "0"), pair("b", "1")]);
        assert_eq!(options.labels, [pair("a", "0"), pair("b", "2"), pair("c", "4")]);
    }
}
