//! The process itself: its signals, its descriptors, and what it leaves behind when it crashes.

use std::io::IsTerminal;

use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit,
};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::http::server::limits::Limits;

/// Descriptors for everything that is no connection.
const OTHER_DESCRIPTORS: usize = 384;

/// From here on SIGHUP, SIGUSR1 and SIGUSR2 end nothing. Called before any file is read: a reload that is asked for while
/// we start is the start's own.
pub fn catch_early_signals() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    if let Ok(runtime) = runtime {
        // The handlers stay when the runtime is gone.
        runtime.block_on(async {
            for kind in [
                SignalKind::hangup(),
                SignalKind::user_defined1(),
                SignalKind::user_defined2(),
            ] {
                drop(listen_for(kind));
            }
        });
    }
}

/// Says that the log ends with the terminal, which the process outlives.
pub(super) fn warn_of_terminal() {
    if std::io::stderr().is_terminal() {
        tracing::warn!(
            "this process logs to this terminal, and its log is lost once that is closed; send SIGUSR2 to the running \
             process instead, which keeps its log, or redirect this one's: 2>>FILE"
        );
    }
}

/// A core dump would have keys and customers' data in it.
pub(super) fn keep_secrets_out_of_dumps() {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    let limited = setrlimit(Resource::Core, none);
    let refused = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    if limited.is_err() || refused.is_err() {
        tracing::warn!("core dumps could not be switched off");
    }
}

/// Raises the limit on descriptors as far as allowed, and takes fewer connections where that is not far enough: a crowd
/// that says nothing must leave some for ops. A call in flight has two connections, one of them to the platform.
pub(super) fn fit_descriptors(app: &mut Limits, callbacks: &mut Limits) {
    let before = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        // The soft limit is 1,024 on most systems for the sake of select(2), which nothing here uses.
        current: before.maximum,
        ..before
    };
    let raised = if setrlimit(Resource::Nofile, raised).is_ok() {
        raised
    } else {
        before
    };
    let Some(allowed) = raised
        .current
        .and_then(|allowed| usize::try_from(allowed).ok())
    else {
        return;
    };
    let needed =
        app.max_connections + app.max_in_flight + of_callbacks(callbacks) + OTHER_DESCRIPTORS;
    if allowed >= needed {
        return;
    }
    tracing::warn!(
        allowed,
        needed,
        "fewer descriptors than connections may need; raise RLIMIT_NOFILE"
    );
    let share = allowed.saturating_sub(OTHER_DESCRIPTORS).max(64) / 4;
    app.max_connections = app.max_connections.min(share);
    app.max_in_flight = app.max_in_flight.min(2 * share);
    // Strangers last: half of the callbacks' share is for known callers.
    callbacks.max_connections = callbacks.max_connections.min(share / 2);
    callbacks.max_known = callbacks.max_known.min(share / 2);
    callbacks.max_turned_away = callbacks.max_turned_away.min(share / 16);
}

fn of_callbacks(limits: &Limits) -> usize {
    limits.max_connections + limits.max_known + limits.max_turned_away
}

pub(super) fn listen_for(kind: SignalKind) -> Signal {
    signal(kind).expect("the process may handle its own signals")
}
