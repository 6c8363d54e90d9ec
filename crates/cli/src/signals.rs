//! Signals to a server: SIGTERM and Ctrl-C stop it, a second one at once; SIGHUP makes it read its files again.

#[cfg(unix)]
pub(crate) use self::unix::Signals;

/// Ends the process without waiting for anything.
fn end_at_once() -> ! {
    note!("stopped at once; requests were cut off");
    std::process::exit(130);
}

#[cfg(unix)]
mod unix {
    use std::fs::File;
    use std::io;

    use tokio::signal::unix::{Signal, SignalKind, signal};

    /// The signals of this process.
    pub(crate) struct Signals {
        interrupt: Signal,
        terminate: Signal,
        hangup: Signal,
        /// A terminal that is closed hangs up, too, and then this process shall end as others do.
        of_terminal: bool,
    }

    impl Signals {
        pub(crate) fn new() -> io::Result<Self> {
            // What nohup started outlives its terminal. That must be seen before the signal is listened to.
            let of_terminal = has_terminal() && !ignores_hangup();
            Ok(Self {
                interrupt: signal(SignalKind::interrupt())?,
                terminate: signal(SignalKind::terminate())?,
                hangup: signal(SignalKind::hangup())?,
                of_terminal,
            })
        }

        /// Ready when the process is asked to stop; `reload` is called whenever it is to read its files again.
        pub(crate) async fn stop(mut self, reload: impl Fn() + Send + Sync + 'static) {
            self.next(&reload).await;
            tokio::spawn(async move {
                self.next(&reload).await;
                super::end_at_once();
            });
        }

        async fn next(&mut self, reload: &(impl Fn() + Sync)) {
            loop {
                tokio::select! {
                    _ = self.interrupt.recv() => return,
                    _ = self.terminate.recv() => return,
                    _ = self.hangup.recv() => {
                        if self.of_terminal && !has_terminal() {
                            return;
                        }
                        reload();
                    }
                }
            }
        }
    }

    /// Whether this process has a terminal that is open.
    fn has_terminal() -> bool {
        File::open("/dev/tty").is_ok()
    }

    /// Whether whoever started this process told it not to mind SIGHUP. Known on Linux.
    fn ignores_hangup() -> bool {
        const SIGHUP: u64 = 1;
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        ignored.is_some_and(|mask| mask & SIGHUP != 0)
    }
}

#[cfg(not(unix))]
pub(crate) struct Signals;

#[cfg(not(unix))]
impl Signals {
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self)
    }

    pub(crate) async fn stop(self, _: impl Fn() + Send + Sync + 'static) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        tokio::spawn(async {
            if tokio::signal::ctrl_c().await.is_ok() {
                end_at_once();
            }
        });
    }
}
