//! Signals of a server: SIGTERM and SIGINT stop it, SIGHUP has files read again and never ends it. All
//! others do what they do to every program.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use super::changes::Look;

/// Why a server stops.
pub enum Cause {
    /// SIGTERM or SIGINT.
    Signal,
    /// The model could not be loaded, or the engine died.
    Failure(anyhow::Error),
}

/// Signals that no longer do what they do by themselves.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// Takes them from the system, within a runtime.
    ///
    /// # Errors
    /// Where the system does not give them.
    pub fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Tells `causes` of each that stops the server, and the log and `looks` of each that has the files
    /// of the flags `followed` read again.
    pub async fn follow(
        mut self,
        followed: Vec<&'static str>,
        looks: [Look; 2],
        causes: mpsc::Sender<Cause>,
    ) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => {}
                _ = self.interrupt.recv() => {}
                _ = self.hangup.recv() => {
                    tracing::info!("SIGHUP: {}", reload(&followed));
                    looks.iter().for_each(Look::ask);
                    continue;
                }
            }
            if causes.send(Cause::Signal).await.is_err() {
                return;
            }
        }
    }
}

fn reload(followed: &[&str]) -> String {
    match followed {
        [] => "there is nothing to read again".to_owned(),
        flags => format!("{} will be read again where they changed", flags.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Duration;

    use super::super::changes::{Looks, Why, looks};
    use super::*;

    #[tokio::test]
    async fn a_hangup_has_every_follower_look() {
        let ((keys, of_keys), (adapters, of_adapters)) = (looks(), looks());
        let (causes, mut stops) = mpsc::channel(1);
        let signals = Signals::listen().unwrap();
        let following = tokio::spawn(signals.follow(vec!["--keys"], [keys, adapters], causes));
        let id = std::process::id().to_string();
        assert!(Command::new("kill").args(["-s", "HUP", &id]).status().unwrap().success());
        let hear =
            |looks: Looks| tokio::task::spawn_blocking(move || looks.wait(Duration::from_secs(30)));
        assert_eq!(hear(of_keys).await.unwrap(), Some(Why::Asked));
        assert_eq!(hear(of_adapters).await.unwrap(), Some(Why::Asked));
        assert!(stops.try_recv().is_err());
        following.abort();
    }

    #[test]
    fn a_hangup_says_what_comes_of_it() {
        assert_eq!(reload(&[]), "there is nothing to read again");
        let both = reload(&["--keys", "--adapters"]);
        assert_eq!(both, "--keys, --adapters will be read again where they changed");
    }
}
