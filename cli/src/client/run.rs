//! `skiff run` and `skiff create`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use skiff_engine::protocol::{Reply, Request};
use skiff_runtime::supervise;

use super::attend::{Refused, Wishes, attend, terminal_size};
use super::{open, print, refused, unexpected};
use crate::args::{self, Args, Parsed};
use crate::failure::Failure;
use crate::flags;
use crate::help;
use crate::images::wanted::{self, Wanted};
use crate::line::Rest;
use crate::output::Output;
use crate::prefetch::caution;

/// `skiff run …`.
pub(crate) fn run(words: Rest<'_>) -> Result<u8, Failure> {
    let words: Vec<OsString> = words.collect();
    // Before anything is read: it starts this program anew. What looks like the flag and is none does no harm.
    if crate::run::is_alone() || words.iter().any(|word| word.as_bytes().starts_with(b"--profile")) {
        skiff_runtime::seal::seal(c"skiff")?;
    }
    let mut args = match args::parse(&flags::RUN, &mut words.iter().cloned())? {
        Parsed::Help => return print(&help::command(&flags::RUN)),
        Parsed::Run(args) => args,
    };
    let prefetch = args.spec.prefetch;
    if crate::run::is_alone() || args.profile.is_some() {
        args.given = args::given(&words)?;
        return crate::run::run(&args).inspect(|_| caution(prefetch));
    }
    if !args.detach {
        supervise::check_terminal(args.spec.options.interactive, args.spec.options.tty)?;
    }
    args.spec.image = absolute(&args.spec.image);
    let mut cidfile = args.cidfile.as_deref().map(Output::make).transpose()?;
    let mut note = |id: &str| keep(&mut cidfile, id);
    let wishes = wishes(&args);
    let terminal = args.spec.options.tty.then(terminal_size).flatten();
    let image = args.spec.image.clone();
    let request = Request::Run { attach: !args.detach, pool: args.pool, terminal, spec: Box::new(args.spec) };
    with_image(&image, &args.wanted, &mut || {
        if !args.detach {
            return attend(&request, &wishes, &mut note);
        }
        match open(&request)?.1 {
            Reply::Started { id, .. } => {
                note(&id)?;
                Ok(print(&format!("{id}\n"))?)
            }
            other => Err(unexpected(&other).into()),
        }
    })
    .inspect(|_| caution(prefetch))
}

/// Carries something out that needs `image`, which is fetched if it is not here.
fn with_image(
    image: &str,
    wants: &Wanted,
    carry_out: &mut dyn FnMut() -> Result<u8, Refused>,
) -> Result<u8, Failure> {
    wanted::before(image, wants)?;
    match carry_out() {
        Err(Refused::NoSuchImage(_)) => {
            wanted::missing(image, wants)?;
            Ok(carry_out()?)
        }
        other => Ok(other?),
    }
}

/// `skiff create …`.
pub(crate) fn create(words: Rest<'_>) -> Result<u8, Failure> {
    let mut args = match args::parse(&flags::CREATE, words)? {
        Parsed::Help => return print(&help::command(&flags::CREATE)),
        Parsed::Run(args) => args,
    };
    let prefetch = args.spec.prefetch;
    args.spec.image = absolute(&args.spec.image);
    let mut cidfile = args.cidfile.as_deref().map(Output::make).transpose().map_err(refused)?;
    let image = args.spec.image.clone();
    let request = Request::Create { spec: Box::new(args.spec) };
    with_image(&image, &args.wanted, &mut || match open(&request)?.1 {
        Reply::Created { id } => {
            keep(&mut cidfile, &id)?;
            Ok(print(&format!("{id}\n"))?)
        }
        other => Err(unexpected(&other).into()),
    })
    .inspect(|_| caution(prefetch))
    // As with docker, 125 is of wrong words only.
    .map_err(refused)
}

fn wishes(args: &Args) -> Wishes {
    Wishes {
        streams: !args.spec.options.tty,
        interactive: args.spec.options.interactive,
        sig_proxy: args.sig_proxy,
        stop_timeout: args.spec.stop_timeout_s.map(Duration::from_secs),
        detach_keys: args.detach_keys.0.clone(),
    }
}

/// Writes the id to the file that was asked for, which stays then.
fn keep(file: &mut Option<Output>, id: &str) -> Result<(), Failure> {
    let Some(mut file) = file.take() else { return Ok(()) };
    file.write(id)?;
    file.keep();
    Ok(())
}

/// IMAGE with its path from the root on: the daemon has another working directory.
pub(crate) fn absolute(image: &str) -> String {
    match image.split_once(':') {
        Some((form @ ("rootfs" | "oci" | "oci-archive" | "docker-archive"), path))
            if !path.is_empty() && !path.starts_with('/') =>
        {
            std::env::current_dir()
                .map_or_else(|_| image.to_owned(), |here| format!("{form}:{}", here.join(path).display()))
        }
        _ => image.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_have_absolute_paths() {
        let here = std::env::current_dir().expect("a directory");
        let check = |image: &str, expected: &str| assert_eq!(absolute(image), expected, "{image}");
        check("host", "host");
        check("rootfs:/srv", "rootfs:/srv");
        check("oci:img:tag", &format!("oci:{}/img:tag", here.display()));
        check("rootfs:", "rootfs:");
        check("web:1", "web:1");
    }
}
