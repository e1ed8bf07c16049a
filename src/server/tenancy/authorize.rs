//! The one layer that lets calls through: by the route that was matched and the key that was sent.

use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::caller::Caller;
use super::routes::Access;
use super::{MetricsAccess, Tenancy, headers};
use crate::server::error::ApiError;
use crate::server::state::AppState;
use crate::tenant::key::KeyHash;

/// Where Anthropic's clients put their key.
const X_API_KEY: &str = "x-api-key";

/// The middleware.
pub async fn authorize(
    State(state): State<Arc<AppState>>,
    mut request: Request,
    next: Next,
) -> Response {
    let matched = request.extensions().get::<MatchedPath>();
    let access = Access::of(matched.map(MatchedPath::as_str));
    let caller = match check(&state.tenancy, access, request.headers()) {
        Ok(caller) => caller,
        Err(error) => return error.into_response(),
    };
    let Some(caller) = caller else { return next.run(request).await };
    let tenant = Arc::clone(&caller.tenant);
    request.extensions_mut().insert(caller);
    let mut response = next.run(request).await;
    if access == Access::User {
        headers::add(response.headers_mut(), &tenant);
    }
    response
}

/// Whoever calls, where somebody must be known.
fn check(
    tenancy: &Tenancy,
    access: Access,
    headers: &HeaderMap,
) -> Result<Option<Caller>, ApiError> {
    let secret = secret(headers);
    let caller = tenancy.caller(secret);
    match access {
        Access::Public => Ok(None),
        Access::Metrics => check_metrics(tenancy, secret, caller).map(|()| None),
        // Whether anybody may manage a server without keys is its administration's to say.
        Access::Admin if tenancy.is_open() => Ok(caller),
        Access::Admin => match caller {
            Some(caller) if caller.is_admin() => Ok(Some(caller)),
            Some(_) => Err(ApiError::not_allowed()),
            None => Err(ApiError::unauthorized()),
        },
        Access::User => match caller {
            Some(caller) if caller.is_user() => Ok(Some(caller)),
            Some(_) => Err(ApiError::not_allowed()),
            None => Err(ApiError::unauthorized()),
        },
    }
}

fn check_metrics(
    tenancy: &Tenancy,
    secret: Option<&str>,
    caller: Option<Caller>,
) -> Result<(), ApiError> {
    let right_key = match tenancy.metrics_access() {
        MetricsAccess::Public => true,
        MetricsAccess::Key(hash) => secret.is_some_and(|key| KeyHash::of(key).matches(hash)),
        MetricsAccess::Admins => false,
    };
    match caller {
        _ if right_key => Ok(()),
        Some(caller) if caller.is_admin() => Ok(()),
        Some(_) => Err(ApiError::not_allowed()),
        None => Err(ApiError::unauthorized()),
    }
}

/// The key a call came with: a bearer's token, else Anthropic's header. Two of one kind are none.
fn secret(headers: &HeaderMap) -> Option<&str> {
    let one = |name: &str| {
        let mut values = headers.get_all(name).iter();
        let value = values.next()?.to_str().ok()?;
        values.next().is_none().then_some(value)
    };
    let bearer = one(header::AUTHORIZATION.as_str()).and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    bearer.or_else(|| one(X_API_KEY))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use serde_json::Value;

    use super::*;
    use crate::server::router::routes;
    use crate::tenant::directory::Directory;
    use crate::tenant::keys_file::KeysFile;

    #[test]
    fn a_key_comes_in_one_of_two_headers() {
        let with = |pairs: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(*name, HeaderValue::from_static(value));
            }
            secret(&headers).map(str::to_owned)
        };
        let auth = "authorization";
        assert_eq!(with(&[(auth, "Bearer a")]).as_deref(), Some("a"));
        assert_eq!(with(&[(auth, "bearer  a")]).as_deref(), Some("a"));
        assert_eq!(with(&[("x-api-key", "b")]).as_deref(), Some("b"));
        assert_eq!(with(&[(auth, "Basic a"), ("x-api-key", "b")]).as_deref(), Some("b"));
        for none in [&[][..], &[(auth, "Basic a")], &[(auth, "a")], &[(auth, "Bearer")]] {
            assert_eq!(with(none), None);
        }
        assert_eq!(with(&[(auth, "Bearer a"), (auth, "Bearer b")]), None);
    }

    /// The layer's own word for a call to `route` with `key`; a handler's check does not count.
    fn verdict(route: &str, key: &str) -> Result<bool, Option<String>> {
        let directory = ["user", "admin"].map(|role| {
            let hash = KeyHash::of(role);
            format!("[keys.{role}]\ntenant = \"acme\"\nsha256 = \"{hash}\"\nroles = [\"{role}\"]\n")
        });
        let file = KeysFile::parse(&format!("[tenants.acme]\n{}", directory.concat())).unwrap();
        let tenancy = Tenancy::with_keys(Directory::new(&file).unwrap(), MetricsAccess::Admins);
        let mut headers = HeaderMap::new();
        headers.insert(X_API_KEY, HeaderValue::from_str(key).unwrap());
        check(&tenancy, Access::of(Some(route)), &headers).map(|caller| caller.is_some()).map_err(
            |error| {
                let body: Value = serde_json::from_str(&error.to_json()).unwrap();
                body["error"]["code"].as_str().map(str::to_owned)
            },
        )
    }

    #[test]
    fn every_route_asks_for_the_key_of_its_kind_before_any_handler() {
        let (needed, denied) = ("invalid_api_key", "insufficient_permissions");
        let refused = |code: &str| Err(Some(code.to_owned()));
        for (route, _) in routes() {
            let [user, admin, other] = ["user", "admin", "else"].map(|key| verdict(route, key));
            let manages = route.starts_with("/admin/") || route.ends_with("load_lora_adapter");
            match Access::of(Some(route)) {
                Access::Public => {
                    assert_eq!([user, admin, other], [Ok(false), Ok(false), Ok(false)], "{route}");
                }
                Access::Metrics => {
                    assert_eq!([user, admin, other], [refused(denied), Ok(false), refused(needed)]);
                }
                Access::User => {
                    assert_eq!(
                        [user, admin, other],
                        [Ok(true), refused(denied), refused(needed)],
                        "{route}"
                    );
                }
                Access::Admin => {
                    assert_eq!(
                        [user, admin, other],
                        [refused(denied), Ok(true), refused(needed)],
                        "{route}"
                    );
                }
            }
            assert_eq!(Access::of(Some(route)) == Access::Admin, manages, "{route}");
        }
    }
}
