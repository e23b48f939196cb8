//! Why something could not be done, with what a client is told of it.

/// A failure, in one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is no such container: `no such container: web`.
    #[error("no such {kind}: {name}")]
    NotFound {
        /// `container`.
        kind: &'static str,
        /// As the client has it.
        name: String,
    },
    /// There is no such image, but a registry may have it.
    #[error("no such image: {0}")]
    NoSuchImage(String),
    /// What is asked does not fit the container's state, or a name is taken.
    #[error("{0}")]
    Conflict(String),
    /// What is asked makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The container's program could not be run. The code is 126 or 127, as a shell has it.
    #[error("{message}")]
    Program {
        /// What `run` and `start` exit with.
        code: u8,
        /// What happened.
        message: String,
    },
    /// The host would not do it.
    #[error("{0}")]
    Host(String),
    /// What the daemon has answered, to a client.
    #[error("{message}")]
    Daemon {
        /// What the command exits with.
        code: u8,
        /// What happened.
        message: String,
    },
}

impl Error {
    /// What a command that fails with this exits with, where it runs a container: docker's 125, 126 and 127.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Program { code, .. } | Self::Daemon { code, .. } => *code,
            _ => 125,
        }
    }
}

impl From<skiff_runtime::Error> for Error {
    fn from(error: skiff_runtime::Error) -> Self {
        match error.exit_code() {
            code @ (126 | 127) => Self::Program { code, message: error.to_string() },
            _ => Self::Host(error.to_string()),
        }
    }
}

impl From<skiff_store::Error> for Error {
    fn from(error: skiff_store::Error) -> Self {
        match error {
            skiff_store::Error::NoSuchImage { image } => Self::NoSuchImage(image),
            error => Self::Host(error.to_string()),
        }
    }
}
