//! Random bytes.

use std::io;

/// Fills `bytes` from the kernel's generator. getrandom(2), Linux ≥ 3.17; waits at boot until the generator is seeded.
pub fn fill(bytes: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    while filled < bytes.len() {
        let rest = &mut bytes[filled..];
        // SAFETY: writes at most `rest.len()` bytes to `rest`.
        let got = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        match usize::try_from(got) {
            Ok(got) => filled += got,
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_draws_differ() {
        let (mut one, mut other) = ([0; 32], [0; 32]);
        fill(&mut one).expect("getrandom");
        fill(&mut other).expect("getrandom");
        assert_ne!(one, other);
    }
}
