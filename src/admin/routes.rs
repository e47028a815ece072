//! Paths and their answers.

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::json;

use super::{AdminState, view};

/// What `GET /` says.
const INDEX: &str = "ringway's admin port

/metrics      for Prometheus
/healthz      200 while the process lives
/readyz       200 while each pool has an owner and the process is not draining
/v1/topology  pools and their nodes: epoch, state, share, evidence (JSON)
/v1/incidents what happened to nodes, the newest first (JSON)
";

/// The version of the exposition format is part of its media type.
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All routes. An unknown path is a 404 and a wrong method a 405, both as JSON.
pub fn router(state: AdminState) -> Router {
    Router::new()
        .route("/", get(async || INDEX))
        .route("/metrics", get(metrics))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/v1/topology", get(topology))
        .route("/v1/incidents", get(incidents))
        .fallback(async |request: Request| {
            refuse(StatusCode::NOT_FOUND, format!("there is nothing at {}: see /", request.uri().path()))
        })
        .method_not_allowed_fallback(async |request: Request| {
            refuse(StatusCode::METHOD_NOT_ALLOWED, format!("{} can't be done here", request.method()))
        })
        .with_state(state)
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
            "incidents": state.incidents.all(),
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

fn refuse(status: StatusCode, why: String) -> Response {
    (status, Json(json!({ "error": why }))).into_response()
}
