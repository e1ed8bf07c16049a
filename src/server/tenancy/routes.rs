//! What each route asks of its caller. A route that nobody has thought of asks for a key.

/// What a call needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nothing: probes say only whether the server works, and its description what it could do.
    Public,
    /// What the operator chose for metrics.
    Metrics,
    /// A key that may use models.
    User,
    /// A key that may manage the server.
    Admin,
}

/// Probes, and the description of the API: a browser that opens it has no key yet.
const PUBLIC: [&str; 8] = [
    "/health",
    "/ready",
    "/v1/health/live",
    "/v1/health/ready",
    "/ping",
    "/version",
    "/openapi.json",
    "/docs",
];

/// Management under vLLM's names.
const ADMIN: [&str; 2] = ["/v1/load_lora_adapter", "/v1/unload_lora_adapter"];

impl Access {
    /// What the route of this pattern needs; `None` is no route at all. The pattern is the router's
    /// own, never the path a client wrote.
    #[must_use]
    pub fn of(route: Option<&str>) -> Self {
        match route {
            Some("/metrics") => Self::Metrics,
            Some(route) if PUBLIC.contains(&route) => Self::Public,
            Some(route) if ADMIN.contains(&route) || route.starts_with("/admin/") => Self::Admin,
            _ => Self::User,
        }
    }
}
