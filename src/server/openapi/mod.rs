//! The API's own description: `/openapi.json`, made from the types that are answered, and `/docs`, a
//! page that shows it and needs no other host.
//!
//! Each handler says beside itself what it takes and answers; `Document` lists them. A test walks
//! the router and finds every route here and none else.

pub mod errors;
pub mod requests;

use std::sync::LazyLock;

use axum::http::header;
use axum::response::IntoResponse;
use utoipa::openapi::path::Operation;
use utoipa::openapi::schema::{AdditionalProperties, ObjectBuilder, Schema};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{OpenApi, PathItem, RefOr};
use utoipa::{OpenApi as _, ToSchema};

use super::admin::{adapters, vllm};
use super::openai::types::{ChatChoice, ChatChunkChoice, CompletionChoice, Envelope};
use super::openai::validate::refused::IGNORED;
use super::openai::{chat, completions, embeddings, models, responses};
use super::tenancy::manage;
use super::{probes, tokenization};

/// Paths that answer as another does.
const ALIASES: [(&str, &str); 3] =
    [("/v1/health/live", "/health"), ("/v1/health/ready", "/ready"), ("/ping", "/health")];

/// What the document calls a key.
const KEY_SCHEME: &str = "key";

/// Bodies whose unknown fields are accepted, and some of them known to change nothing.
const OPEN: [&str; 7] = [
    "ResponseRequest",
    "CompletionRequest",
    "ChatCompletionRequest",
    "EmbeddingRequest",
    "TokenizePrompt",
    "TokenizeMessages",
    "DetokenizeRequest",
];

/// A completion, or one event of its stream.
#[derive(Debug, ToSchema)]
pub struct Completion(#[schema(inline)] pub Envelope<'static, CompletionChoice>);

/// A chat's whole answer.
#[derive(Debug, ToSchema)]
pub struct ChatCompletion(#[schema(inline)] pub Envelope<'static, ChatChoice>);

/// One event of a chat's stream.
#[derive(Debug, ToSchema)]
pub struct ChatCompletionChunk(#[schema(inline)] pub Envelope<'static, ChatChunkChoice>);

#[derive(Debug, utoipa::OpenApi)]
#[openapi(
    info(
        title = "sorsa",
        description = "One base model and many SORSA or LoRA adapters behind OpenAI's endpoints. \
                       The name in `model` says which of them answers.",
    ),
    paths(
        completions::completions,
        chat::chat_completions,
        responses::create_response,
        responses::no_response,
        responses::delete_no_response,
        embeddings::embeddings,
        models::list_models,
        models::retrieve_model,
        tokenization::tokenize,
        tokenization::detokenize,
        tokenization::tokenizer_info,
        adapters::list,
        adapters::get,
        adapters::versions,
        adapters::put,
        adapters::delete,
        adapters::roll_out,
        adapters::roll_back,
        adapters::pin,
        adapters::unload,
        manage::list_tenants,
        manage::put_tenant,
        manage::delete_tenant,
        manage::list_keys,
        manage::create_key,
        manage::delete_key,
        vllm::load_lora_adapter,
        vllm::unload_lora_adapter,
        probes::health,
        probes::ready,
        probes::version,
        probes::metrics,
        openapi_json,
        docs,
    ),
    components(schemas(super::error::ErrorResponse)),
    tags(
        (name = "inference", description = "Text from a model or an adapter"),
        (name = "models", description = "What is served"),
        (name = "tokens", description = "The tokenizer"),
        (name = "admin", description = "Adapters, tenants and keys, changed while serving; for those who may"),
        (name = "probes", description = "For orchestrators and dashboards"),
        (name = "description", description = "This description"),
    ),
)]
struct Document;

/// The description of this API.
#[must_use]
pub fn document() -> OpenApi {
    let mut document = Document::openapi();
    for (alias, path) in ALIASES {
        let Some(mut item) = document.paths.paths.get(path).cloned() else { continue };
        if alias == "/ping" {
            item.post = item.get.clone();
        }
        rename(&mut item, alias);
        document.paths.paths.insert(alias.to_owned(), item);
    }
    // A server without keys asks for none.
    let key = SecurityRequirement::new(KEY_SCHEME, Vec::<String>::new());
    document.security = Some(vec![SecurityRequirement::default(), key]);
    let components = document.components.get_or_insert_default();
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
    components.add_security_scheme(KEY_SCHEME, SecurityScheme::Http(bearer));
    let schemas = &mut components.schemas;
    for name in OPEN {
        if let Some(RefOr::T(schema)) = schemas.get_mut(name) {
            add_ignored(schema);
        }
    }
    document
}

/// Operations have names of their own, whatever answers them.
fn rename(item: &mut PathItem, path: &str) {
    let name = |method: &str| Some(format!("{method}{}", path.replace('/', "_")));
    let set = |operation: &mut Option<Operation>, method| {
        if let Some(operation) = operation {
            operation.operation_id = name(method);
        }
    };
    set(&mut item.get, "get");
    set(&mut item.post, "post");
}

/// Adds the fields of the reader's list, and says that others are accepted too.
fn add_ignored(schema: &mut Schema) {
    let object = match schema {
        Schema::Object(object) => object,
        // The last part holds the fields of the type itself.
        Schema::AllOf(parts) => {
            let own = parts.items.iter_mut().rev().find_map(|part| match part {
                RefOr::T(Schema::Object(object)) => Some(object),
                _ => None,
            });
            let Some(object) = own else { return };
            object
        }
        _ => return,
    };
    for name in IGNORED {
        let ignored = ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::SchemaType::AnyValue)
            .description(Some("Accepted and ignored."));
        object.properties.insert(name.to_owned(), RefOr::T(ignored.into()));
    }
    object.additional_properties = Some(Box::new(AdditionalProperties::FreeForm(true)));
}

static JSON: LazyLock<String> =
    LazyLock::new(|| serde_json::to_string(&document()).expect("a document serialises"));

/// Answers `GET /openapi.json`.
#[utoipa::path(
    get,
    path = "/openapi.json",
    tag = "description",
    summary = "This document",
    responses((status = 200, description = "OpenAPI 3.1", body = Object)),
)]
pub async fn openapi_json() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], JSON.as_str())
}

/// The page is whole in itself and talks to nobody but this server.
const POLICY: &str = "default-src 'none'; connect-src 'self'; style-src 'unsafe-inline'; \
                      script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";

/// Answers `GET /docs`.
#[utoipa::path(
    get,
    path = "/docs",
    tag = "description",
    summary = "A page that shows this document and tries its operations",
    responses((status = 200, description = "The page", body = String, content_type = "text/html")),
)]
pub async fn docs() -> impl IntoResponse {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
    ];
    (headers, include_str!("docs.html"))
}
