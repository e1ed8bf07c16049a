//! Which path means which handler, and what lies around all of them.

use std::any::Any;
use std::sync::Arc;

use axum::Router;
use axum::http::{Method, Uri};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post, put};
use tower_http::catch_panic::CatchPanicLayer;

use super::admin::{adapters, vllm};
use super::error::ApiError;
use super::hosts::check_host;
use super::observe::observe;
use super::openai::{chat, completions, embeddings, models, responses};
use super::state::AppState;
use super::tenancy::authorize::authorize;
use super::tenancy::manage;
use super::{openapi, probes, tokenization};

/// A path with the methods it knows.
type Route = (&'static str, MethodRouter<Arc<AppState>>);

/// Every path. What lies around all of them is [`router`]'s.
pub fn routes() -> Vec<Route> {
    let mut routes = vec![
        ("/v1/completions", post(completions::completions)),
        ("/v1/chat/completions", post(chat::chat_completions)),
        ("/v1/responses", post(responses::create_response)),
        ("/v1/responses/{id}", get(responses::no_response).delete(responses::delete_no_response)),
        ("/v1/embeddings", post(embeddings::embeddings)),
        ("/v1/models", get(models::list_models)),
        // A model's name may hold slashes.
        ("/v1/models/{*id}", get(models::retrieve_model)),
        ("/tokenize", post(tokenization::tokenize)),
        ("/detokenize", post(tokenization::detokenize)),
        ("/tokenizer_info", get(tokenization::tokenizer_info)),
        ("/health", get(probes::health)),
        ("/ready", get(probes::ready)),
        ("/v1/health/live", get(probes::health)),
        ("/v1/health/ready", get(probes::ready)),
        ("/ping", get(probes::health).post(probes::health)),
        ("/version", get(probes::version)),
        ("/metrics", get(probes::metrics)),
        ("/openapi.json", get(openapi::openapi_json)),
        ("/docs", get(openapi::docs)),
    ];
    routes.extend(admin());
    routes
}

/// The whole service.
pub fn router(state: Arc<AppState>) -> Router {
    routes()
        .into_iter()
        .fold(Router::new(), |router, (path, methods)| router.route(path, methods))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn_with_state(Arc::clone(&state), authorize))
        .layer(from_fn_with_state(Arc::clone(&state), check_host))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn_with_state(Arc::clone(&state), observe))
        .with_state(state)
}

/// What only those may call who manage the server.
fn admin() -> Vec<Route> {
    vec![
        ("/admin/tenants", get(manage::list_tenants)),
        ("/admin/tenants/{name}", put(manage::put_tenant).delete(manage::delete_tenant)),
        ("/admin/keys", get(manage::list_keys).post(manage::create_key)),
        ("/admin/keys/{id}", delete(manage::delete_key)),
        ("/admin/adapters", get(adapters::list)),
        ("/admin/adapters/{name}", get(adapters::get).put(adapters::put).delete(adapters::delete)),
        ("/admin/adapters/{name}/versions", get(adapters::versions)),
        ("/admin/adapters/{name}/rollout", put(adapters::roll_out)),
        ("/admin/adapters/{name}/rollback", post(adapters::roll_back)),
        ("/admin/adapters/{name}/pin", put(adapters::pin)),
        ("/admin/adapters/{name}/unload", post(adapters::unload)),
        ("/v1/load_lora_adapter", post(vllm::load_lora_adapter)),
        ("/v1/unload_lora_adapter", post(vllm::unload_lora_adapter)),
    ]
}

async fn not_found(method: Method, uri: Uri) -> ApiError {
    ApiError::not_found(&shown(method.as_str()), &shown(uri.path()))
}

/// The router adds the `allow` header.
async fn method_not_allowed(method: Method, uri: Uri) -> ApiError {
    ApiError::method_not_allowed(&shown(method.as_str()), &shown(uri.path()))
}

/// A client's own word, repeated to it only in part where it is long.
fn shown(text: &str) -> String {
    text.chars().take(128).collect()
}

fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let message = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message");
    tracing::error!(message, "bug: a handler panicked");
    ApiError::internal().into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::http::Request;
    use tower::ServiceExt;

    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_error_that_says_nothing_of_the_inside() {
        async fn bug() {
            panic!("secret")
        }
        let router = Router::new().route("/", get(bug)).layer(CatchPanicLayer::custom(panicked));
        let response = router.oneshot(Request::new(Body::empty())).await.unwrap();
        assert_eq!(response.status(), 500);
        let body = to_bytes(response.into_body(), 1000).await.unwrap();
        assert_eq!(body, ApiError::internal().to_json());
    }
}
