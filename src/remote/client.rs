//! The HTTP client. It follows no redirects: [`super::redirects`] does, where they may lead.

use std::time::Duration;

use reqwest::Client;
use reqwest::redirect::Policy;

use super::error::RemoteError;

/// Time to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time without a byte.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// The client.
///
/// # Errors
/// Where this machine has no certificates to trust.
pub(super) fn client() -> Result<Client, RemoteError> {
    // Somebody else may have chosen before, and that one does as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = Client::builder()
        .redirect(Policy::none())
        // An address is nobody else's business.
        .referer(false)
        .user_agent(concat!("sorsa/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(IDLE_TIMEOUT);
    builder.build().map_err(|_| {
        let message = "there is no HTTP client: are certificates installed (ca-certificates), or \
                       named by SSL_CERT_FILE?";
        RemoteError::Settings(message.to_owned())
    })
}
