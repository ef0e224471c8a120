//! Graceful shutdown: SIGTERM, SIGINT, SIGQUIT or the next process begins the drain, and a second signal ends at once.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::server::{ShutdownSignal, ShutdownSignalWatch};
use tokio::signal::unix::SignalKind;
use tokio::sync::Notify;

use super::process::listen_for;
use super::wiring::Parts;
use crate::config::Listen;
use crate::process::drain::DRAIN_TIME;
use crate::telemetry::log;

/// The store's time at the end for the last entries of the activity log.
const LAST_NOTES: Duration = Duration::from_millis(200);

pub(super) struct End {
    pub(super) parts: Parts,
    /// Set off once signals no longer end the process hard.
    pub(super) is_watching: Arc<Notify>,
    /// Of the app's listeners.
    pub(super) files: Vec<PathBuf>,
    /// For what is in flight when another process has taken over: no client waits for the end.
    pub(super) lame_time: Duration,
}

#[async_trait]
impl ShutdownSignalWatch for End {
    async fn recv(&self) -> ShutdownSignal {
        let (mut terminate, mut interrupt, mut quit) = (
            listen_for(SignalKind::terminate()),
            listen_for(SignalKind::interrupt()),
            listen_for(SignalKind::quit()),
        );
        let drain = self.parts.drain.clone();
        self.is_watching.notify_one();
        let replaced = tokio::select! {
            _ = terminate.recv() => false,
            _ = interrupt.recv() => false,
            _ = quit.recv() => false,
            () = drain.until_replaced() => true,
        };
        // The socket's files are the other process's now.
        let (time, files) = if replaced {
            (self.lame_time, Vec::new())
        } else {
            (DRAIN_TIME, self.files.clone())
        };
        self.parts.supervisor.stopping();
        // These are copies: the listeners empty the kernel's queues before they close their own.
        self.parts.sockets.close();
        tracing::info!(replaced, "draining; a signal from here on ends at once");
        let tracer = self.parts.tracer.clone();
        let activity = self.parts.activity.clone();
        let pulse = self.parts.pulse.clone();
        // On a task of its own: Pingora blocks this one for the whole grace period.
        tokio::spawn(async move {
            tokio::select! {
                () = async {
                    drain.drain(time).await;
                    // What is not written by then is not worth a longer end.
                    let _ = tokio::time::timeout(LAST_NOTES, async { tokio::join!(activity.write(), pulse.write()) }).await;
                } => {}
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                _ = quit.recv() => {}
            }
            for file in files {
                let _ = std::fs::remove_file(file);
            }
            let _ = tokio::task::spawn_blocking(move || tracer.end()).await;
            tracing::info!("ended");
            // `exit` runs no destructors, so that lines which still gather would be lost.
            log::end();
            std::process::exit(0);
        });
        ShutdownSignal::GracefulTerminate
    }
}

pub(super) fn socket_files(listen: &[Listen]) -> Vec<PathBuf> {
    let path = |listen: &Listen| match listen {
        Listen::Unix(path) => Some(path.clone()),
        Listen::Tcp(_) => None,
    };
    listen.iter().filter_map(path).collect()
}
