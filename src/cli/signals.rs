//! What asks this process to stop: Ctrl-C, and on Unix SIGTERM and SIGHUP (`timeout`, CI, containers, systemd, a terminal
//! that is closed), which would else end it at once and lose what is in flight.

/// All of them as one stream.
pub struct Signals {
    #[cfg(unix)]
    unix: unix::Signals,
}

impl Signals {
    /// Listens from now on; call it in a runtime.
    pub fn listen() -> Signals {
        Signals {
            #[cfg(unix)]
            unix: unix::Signals::listen(),
        }
    }

    /// Waits for the next one; false where none can be heard of any more.
    pub async fn next(&mut self) -> bool {
        #[cfg(unix)]
        return self.unix.next().await;
        #[cfg(not(unix))]
        tokio::signal::ctrl_c().await.is_ok()
    }
}

#[cfg(unix)]
mod unix {
    use std::time::{Duration, Instant};

    use tokio::signal::unix::{Signal, SignalKind, signal};

    /// A signal of a program's that comes so soon after another one is the same wish: `timeout` signals its child and then
    /// its group, and a shell that ends does so beside the kernel.
    const SAME: Duration = Duration::from_secs(1);

    pub struct Signals {
        interrupt: Option<Signal>,
        terminate: Option<Signal>,
        hangup: Option<Signal>,
        last: Option<Instant>,
    }

    impl Signals {
        pub fn listen() -> Signals {
            Signals {
                interrupt: signal(SignalKind::interrupt()).ok(),
                terminate: signal(SignalKind::terminate()).ok(),
                hangup: if hangups_are_ignored() { None } else { signal(SignalKind::hangup()).ok() },
                last: None,
            }
        }

        pub async fn next(&mut self) -> bool {
            loop {
                let (heard, typed) = tokio::select! {
                    heard = of(&mut self.interrupt) => (heard, true),
                    heard = of(&mut self.terminate) => (heard, false),
                    heard = of(&mut self.hangup) => (heard, false),
                };
                let before = self.last.replace(Instant::now());
                if !heard || typed || before.is_none_or(|before| before.elapsed() > SAME) {
                    return heard;
                }
            }
        }
    }

    async fn of(signal: &mut Option<Signal>) -> bool {
        match signal {
            Some(signal) => signal.recv().await.is_some(),
            None => std::future::pending().await,
        }
    }

    /// Begun under `nohup`, it is to go on when the terminal is closed. Where the system does not say so, standard error
    /// does: `nohup` leads it away from the terminal.
    fn hangups_are_ignored() -> bool {
        match std::fs::read_to_string("/proc/self/status") {
            Ok(status) => {
                let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
                let mask = mask.and_then(|mask| u128::from_str_radix(mask.trim(), 16).ok());
                mask.is_some_and(|mask| mask & 1 == 1)
            }
            Err(_) => !std::io::IsTerminal::is_terminal(&std::io::stderr()),
        }
    }
}
