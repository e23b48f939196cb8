//! What a container may be doing, and what may be asked of it then. Pure.
//!
//! ```text
//! created ── start ──► running ◄── unpause ── paused
//!                     ▲   │ └────── pause ─────►
//!               start │   │ ends
//!                     │   ▼
//!      restarting ◄── exited ── remove ──► gone
//!          └── after a pause, running again
//! ```
//!
//! A container that cannot be cleared away is `dead`: only its removal may be tried again.

use serde::{Deserialize, Serialize};

/// What a container is doing, in docker's words.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It has never been started.
    #[default]
    Created,
    /// Its program runs.
    Running,
    /// Its processes stand still.
    Paused,
    /// Its program has ended and is to be started again.
    Restarting,
    /// It is being cleared away.
    Removing,
    /// Its program has ended.
    Exited,
    /// It could not be cleared away.
    Dead,
}

impl State {
    /// Whether there is a process.
    #[must_use]
    pub const fn is_live(self) -> bool {
        matches!(self, Self::Running | Self::Paused)
    }

    /// The word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Removing => "removing",
            Self::Exited => "exited",
            Self::Dead => "dead",
        }
    }
}

/// What is asked of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// To run.
    Start,
    /// To end in good order.
    Stop,
    /// To end and run.
    Restart,
    /// To take a signal.
    Kill,
    /// To stand still.
    Pause,
    /// To go on.
    Unpause,
    /// To go.
    Remove,
    /// To go, running or not.
    ForceRemove,
    /// To have another name.
    Rename,
    /// To run one more process.
    Exec,
}

/// What comes of a wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is to be done.
    Do,
    /// It is so already.
    Done,
    /// It does not go together with the state; a phrase that follows the container's name.
    Conflict(&'static str),
}

/// What comes of `wish` in `state`, by docker's rules.
#[must_use]
pub const fn legal(state: State, wish: Wish) -> Verdict {
    use State::{Created, Dead, Exited, Paused, Removing, Restarting, Running};
    use Verdict::{Conflict, Do, Done};
    match (state, wish) {
        (Removing, Wish::Remove | Wish::ForceRemove) => Conflict("is already being removed"),
        (_, Wish::ForceRemove) => Do,
        (Removing, _) => Conflict("is being removed"),
        (Dead, Wish::Remove) => Do,
        (Dead, _) => Conflict("is dead: it can only be removed"),

        (Created | Exited | Restarting, Wish::Start) => Do,
        (Running, Wish::Start) => Done,
        (Paused, Wish::Start) => Conflict("is paused, unpause it instead"),

        (Created | Exited, Wish::Stop) => Done,
        (Running | Paused | Restarting, Wish::Stop) => Do,

        (_, Wish::Restart | Wish::Rename) => Do,

        (Running | Paused | Restarting, Wish::Kill) => Do,
        (_, Wish::Kill) => Conflict("is not running"),

        (Running, Wish::Pause) => Do,
        (Paused, Wish::Pause) => Conflict("is already paused"),
        (_, Wish::Pause | Wish::Exec) if !matches!(state, Running | Paused) => Conflict("is not running"),
        (_, Wish::Pause) => Conflict("is not running"),

        (Paused, Wish::Unpause) => Do,
        (_, Wish::Unpause) => Conflict("is not paused"),

        (Created | Exited, Wish::Remove) => Do,
        (Running, Wish::Remove) => Conflict("is running: stop it first, or remove it with --force"),
        (Paused, Wish::Remove) => Conflict("is paused: stop it first, or remove it with --force"),
        (Restarting, Wish::Remove) => Conflict("is restarting: stop it first, or remove it with --force"),

        (Paused, Wish::Exec) => Conflict("is paused, unpause it first"),
        (_, Wish::Exec) => Do,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wish_has_a_verdict_in_every_state() {
        use State::{Created, Dead, Exited, Paused, Removing, Restarting, Running};
        // In this order; + is done, = is so already, ! is a conflict.
        let states = [Created, Running, Paused, Restarting, Removing, Exited, Dead];
        let check = |wish: Wish, expected: &str| {
            let found: String = states
                .into_iter()
                .map(|state| match legal(state, wish) {
                    Verdict::Do => '+',
                    Verdict::Done => '=',
                    Verdict::Conflict(_) => '!',
                })
                .collect();
            assert_eq!(found, expected, "{wish:?}");
        };
        check(Wish::Start, "+=!+!+!");
        check(Wish::Stop, "=+++!=!");
        check(Wish::Restart, "++++!+!");
        check(Wish::Kill, "!+++!!!");
        check(Wish::Pause, "!+!!!!!");
        check(Wish::Unpause, "!!+!!!!");
        check(Wish::Remove, "+!!!!++");
        check(Wish::ForceRemove, "++++!++");
        check(Wish::Rename, "++++!+!");
        check(Wish::Exec, "!+!!!!!");
    }

    #[test]
    fn states_are_written_in_docker_s_words() {
        for state in [State::Created, State::Running, State::Dead] {
            assert_eq!(serde_json::to_string(&state).expect("write"), format!("{:?}", state.word()));
        }
    }
}
