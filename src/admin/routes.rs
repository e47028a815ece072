//! Paths and their answers.

use axum::{
    Json, Router,
    extract::{Path, Request, State},
    http::{HeaderMap, StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use percent_encoding::percent_decode_str;
use serde_json::json;

use super::{AdminState, dashboard, orders, view};

/// What `GET /` says.
const INDEX: &str = "ringway's admin port; a browser is shown a dashboard here

/metrics      for Prometheus
/healthz      200 while the process lives
/readyz       200 while each pool has an owner and the process is not draining
/v1/topology  pools and their nodes: epoch, state, share, evidence (JSON)
/v1/incidents what happened to nodes, the newest first (JSON)

GET /v1/pools/POOL/keys     which keys and clients its nodes are busy with (JSON)
GET /v1/pools/POOL/keys/KEY where a key has lived, epoch by epoch (JSON)
POST /v1/pools/POOL/nodes/NODE/ORDER, as `ringway drain` and its kin do
";

/// The version of the exposition format is part of its media type.
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All routes. An unknown path is a 404 and a wrong method a 405, both as JSON.
pub fn router(state: AdminState) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/dashboard.css", get(dashboard::style))
        .route("/dashboard.js", get(dashboard::script))
        .route("/metrics", get(metrics))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/v1/topology", get(topology))
        .route("/v1/incidents", get(incidents))
        .route("/v1/pools/{pool}/keys", get(keys))
        .route("/v1/pools/{pool}/keys/{*key}", get(key))
        .route("/v1/pools/{pool}/nodes/{node}/{order}", post(orders::order))
        .fallback(async |request: Request| {
            refuse(StatusCode::NOT_FOUND, format!("there is nothing at {}: see /", request.uri().path()))
        })
        .method_not_allowed_fallback(async |request: Request| {
            refuse(StatusCode::METHOD_NOT_ALLOWED, format!("{} can't be done here", request.method()))
        })
        .with_state(state)
}

/// A page for browsers, a list of the paths for the others.
async fn index(headers: HeaderMap) -> Response {
    if dashboard::is_wanted(&headers) { dashboard::page() } else { INDEX.into_response() }
}

async fn metrics(State(state): State<AdminState>) -> Response {
    match rendered(state, view::metrics_text).await {
        Ok(page) => uncached(PROMETHEUS, page),
        Err(refusal) => refusal,
    }
}

async fn topology(State(state): State<AdminState>) -> Response {
    match rendered(state, view::topology_json).await {
        Ok(Ok(page)) => uncached("application/json", page),
        Ok(Err(error)) => refuse(StatusCode::INTERNAL_SERVER_ERROR, format!("not rendered: {error}")),
        Err(refusal) => refusal,
    }
}

async fn incidents(State(state): State<AdminState>) -> Response {
    let page = |state: &AdminState| {
        serde_json::to_vec_pretty(&json!({
            "boot_id": &*state.boot_id,
            "incidents": state.membership.incidents().all(),
        }))
    };
    match rendered(state, page).await {
        Ok(Ok(mut page)) => {
            page.push(b'\n');
            uncached("application/json", page)
        }
        Ok(Err(error)) => refuse(StatusCode::INTERNAL_SERVER_ERROR, format!("not rendered: {error}")),
        Err(refusal) => refusal,
    }
}

/// Where a key, the rest of the path with its escapes, has lived. Its bytes need not be text, so the path is
/// taken as it came.
async fn key(State(state): State<AdminState>, uri: Uri) -> Response {
    let mut parts = uri.path().trim_start_matches("/v1/pools/").splitn(3, '/');
    let (pool, key) = (parts.next().unwrap_or_default(), parts.nth(1).unwrap_or_default());
    let pool = percent_decode_str(pool).decode_utf8_lossy().into_owned();
    let key: Vec<u8> = percent_decode_str(key).collect();
    let found = state.pools.load().iter().find(|p| *p.name == *pool).map(|p| p.topology.load());
    let Some(topology) = found else {
        return refuse(StatusCode::NOT_FOUND, format!("there is no pool {pool}"));
    };
    let lived = state.membership.history().of_key(&topology, &key);
    let candidates = topology.ring.candidates(topology.ring.hash(&key)).take(3);
    let names: Vec<&str> = candidates.map(|at| &*topology.nodes[at].node.name).collect();
    let page = json!({ "pool": pool, "epoch": topology.epoch, "candidates": names, "lived": lived });
    uncached("application/json", page.to_string())
}

/// What the nodes of a pool are busy with.
async fn keys(State(state): State<AdminState>, Path(pool): Path<String>) -> Response {
    let found = state.pools.load().iter().find(|p| *p.name == *pool).map(|p| p.topology.load());
    let Some(topology) = found else {
        return refuse(StatusCode::NOT_FOUND, format!("there is no pool {pool}"));
    };
    let nodes: Vec<_> = state
        .membership
        .business(&pool)
        .into_iter()
        .map(|(node, of)| json!({ "node": &*node, "busy_with": of }))
        .collect();
    let page = json!({
        "pool": pool, "protocol": topology.policy.protocol.word(), "hot_keys": topology.policy.hot_keys, "nodes": nodes,
    });
    uncached("application/json", page.to_string())
}

async fn readyz(State(state): State<AdminState>) -> Response {
    let readiness = view::readiness(&state);
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(readiness)).into_response()
}

/// Renders off the control loop, one page at a time. The permit goes with the work: a client that
/// leaves does not make room for a second page beside the first.
async fn rendered<T: Send + 'static>(
    state: AdminState,
    page: impl FnOnce(&AdminState) -> T + Send + 'static,
) -> Result<T, Response> {
    let failed = |what: &str| refuse(StatusCode::INTERNAL_SERVER_ERROR, format!("not rendered: {what}"));
    let permit = state.rendering.clone().acquire_owned().await.map_err(|e| failed(&e.to_string()))?;
    let work = move || {
        let _permit = permit;
        page(&state)
    };
    tokio::task::spawn_blocking(work).await.map_err(|e| failed(&e.to_string()))
}

fn uncached(kind: &'static str, body: impl IntoResponse) -> Response {
    ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-store")], body).into_response()
}

pub(super) fn refuse(status: StatusCode, why: String) -> Response {
    (status, Json(json!({ "error": why }))).into_response()
}
