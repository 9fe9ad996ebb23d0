//! `RunService`: the queue of runs from outside.

use std::collections::BTreeMap;
use std::io::Read;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use fracas_dataplane::clock::Instant;
use fracas_loadgen::measure::{Distribution, Interval, Series, Summary};
use fracas_loadgen::scenario::{Plan, parse};
use fracas_proto::v1;
use fracas_proto::v1::run_service_server::RunService;
use tokio::runtime;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::bounds::{check_count, check_text};
use super::control_plane::ControlPlane;
use super::page;
use super::proxy_proto::std_duration;
use super::refusal::invalid;
use super::remembered::check_id as check_request_id;
use super::session_proto::{counts_proto, duration_proto, grade_proto};
use crate::controller::{Controller, RunError, Submission, SubmitError};
use crate::execution::{Progress, series_of};
use crate::labels;
use crate::run::{Run, RunNode, RunState};
use crate::store::RunFilter;

/// Run files that are read at a time, and that may wait for it: each is a text of up to 1 MiB.
const READING_MAX: usize = 2;
const UNREAD_MAX: usize = 64;
/// Longest name of a run file.
const FILE_NAME_BYTES_MAX: usize = 1024;
/// The longest wait for a start that means something.
const START_WITHIN_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// Why a run is cancelled, for people.
const REASON_BYTES_MAX: usize = 1024;
/// Longest run file.
const FILE_BYTES_MAX: usize = 1024 * 1024;
/// A watcher hears something at least this often.
const WATCH_HEARTBEAT: Duration = Duration::from_secs(15);
/// Reports that are streamed at a time.
const REPORTS_MAX: usize = 16;
/// Names of files of a report that one call may ask for; there are fewer.
const REPORT_FILES_MAX: usize = 64;
/// A client that reads nothing of its stream for this long is given up.
const PATIENCE: Duration = Duration::from_secs(45);
/// Pieces of a report; a message stays below 256 KiB.
const PIECE_BYTES: usize = 192 * 1024;

/// The service.
pub struct Runs {
    plane: Arc<ControlPlane>,
    /// Reports on their way; each has a thread.
    reports: Arc<Semaphore>,
    reading: Arc<Semaphore>,
    unread: Arc<Semaphore>,
}

impl Runs {
    /// Over a controller.
    pub fn new(plane: Arc<ControlPlane>) -> Runs {
        let places = |count| Arc::new(Semaphore::new(count));
        Runs {
            plane,
            reports: places(REPORTS_MAX),
            reading: places(READING_MAX),
            unread: places(READING_MAX + UNREAD_MAX),
        }
    }

    /// Reads a run file on a thread that may take its time.
    async fn read(&self, name: String, text: String) -> Result<(Plan, String, String), Status> {
        let Ok(place) = self.unread.clone().try_acquire_owned() else {
            let message = format!("{UNREAD_MAX} run files wait to be read; try again later");
            return Err(reasoned(Code::ResourceExhausted, &message, "TOO_MANY_SUBMISSIONS"));
        };
        let turn = self.reading.clone().acquire_owned().await;
        let read = tokio::task::spawn_blocking(move || {
            let _held = (place, turn);
            let wrong = |message: &str| reasoned(Code::InvalidArgument, message, "INVALID_RUN_FILE");
            let plan = parse(&name, &text).map_err(|error| wrong(&error.to_string()))?;
            Ok((plan, name, text))
        });
        read.await.map_err(|_| reasoned(Code::Unavailable, "the controller is shutting down", "DRAINING"))?
    }
}

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A status with a reason that programs can tell apart.
pub fn reasoned(code: Code, message: &str, reason: &str) -> Status {
    let details = ErrorDetails::with_error_info(reason, "fracas", std::collections::HashMap::new());
    Status::with_error_details(code, message, details)
}

/// Refuses labels that are beyond their limits.
fn check_labels(given: &BTreeMap<String, String>) -> Result<(), Status> {
    labels::check(given).map_err(|name| {
        let field = name.map_or("labels".to_owned(), |name| {
            format!("labels[{}]", name.chars().take(64).collect::<String>())
        });
        invalid(field, format!("at most {}", labels::LIMITS))
    })
}

/// The wire's of Unix milliseconds.
pub fn timestamp(unix_ms: u64) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: (unix_ms / 1_000) as i64, nanos: (unix_ms % 1_000) as i32 * 1_000_000 }
}

impl From<RunError> for Status {
    fn from(error: RunError) -> Status {
        let message = error.to_string();
        match error {
            RunError::NotFound(_) => reasoned(Code::NotFound, &message, "RUN_NOT_FOUND"),
            RunError::Ended(_) => reasoned(Code::FailedPrecondition, &message, "RUN_ENDED"),
        }
    }
}

impl From<SubmitError> for Status {
    fn from(error: SubmitError) -> Status {
        let message = error.to_string();
        match error {
            SubmitError::Full(_) => reasoned(Code::ResourceExhausted, &message, "QUEUE_FULL"),
            SubmitError::PlanTooLong { .. } => reasoned(Code::InvalidArgument, &message, "PLAN_TOO_LONG"),
            SubmitError::NoSuchProxy { .. } => {
                reasoned(Code::FailedPrecondition, &message, "PROXY_NOT_JOINED")
            }
        }
    }
}

#[tonic::async_trait]
impl RunService for Runs {
    async fn submit_run(
        &self,
        request: Request<v1::SubmitRunRequest>,
    ) -> Result<Response<v1::SubmitRunResponse>, Status> {
        let v1::SubmitRunRequest { file_text, file_name, labels, request_id, start_within } =
            request.into_inner();
        check_request_id(&request_id)?;
        check_labels(&labels)?;
        check_text("file_name", &file_name, FILE_NAME_BYTES_MAX)?;
        let start_within = std_duration(start_within, "start_within")?;
        if start_within.is_some_and(|time| time.is_zero() || time > START_WITHIN_MAX) {
            return Err(invalid("start_within", "give a time above 0, at most 30 days, or leave it out"));
        }
        let file_name = if file_name.is_empty() { "run file".to_owned() } else { file_name };
        let wrong = |message: &str| reasoned(Code::InvalidArgument, message, "INVALID_RUN_FILE");
        if file_text.len() > FILE_BYTES_MAX {
            return Err(wrong(&format!(
                "{file_name}: longer than 1 MiB; a run file is text written by people"
            )));
        }
        let (plan, file_name, file_text) = self.read(file_name, file_text).await?;
        let labels = labels.into_iter().collect();
        let submission = Submission { plan, file_name, file_text, labels, request_id, start_within };
        let run = self.plane.tell(|controller, now| {
            let run = controller.submit(submission, now)?;
            Ok::<_, Status>(run_proto(controller, &run))
        })?;
        Ok(Response::new(v1::SubmitRunResponse { run: Some(run) }))
    }

    async fn get_run(
        &self,
        request: Request<v1::GetRunRequest>,
    ) -> Result<Response<v1::GetRunResponse>, Status> {
        let run = self.plane.read(|controller, _| {
            let run = controller.run(&request.into_inner().run_id)?;
            let file_text = run.file_text.to_string();
            Ok::<_, Status>(v1::Run { file_text, ..run_proto(controller, &run) })
        })?;
        Ok(Response::new(v1::GetRunResponse { run: Some(run) }))
    }

    async fn list_runs(
        &self,
        request: Request<v1::ListRunsRequest>,
    ) -> Result<Response<v1::ListRunsResponse>, Status> {
        let request = request.into_inner();
        let size = page::size(request.page_size);
        for (index, state) in request.states.iter().enumerate() {
            if v1::RunState::try_from(*state).ok().and_then(state_of).is_none() {
                return Err(invalid(format!("states[{index}]"), format!("{state} is not a state of a run")));
            }
        }
        // A page of another choice of runs is a page of another list.
        let mut states = request.states.clone();
        states.sort_unstable();
        states.dedup();
        let list = format!("runs/{states:?}/{}", request.name);
        let filter = RunFilter {
            states: states
                .iter()
                .filter_map(|state| v1::RunState::try_from(*state).ok().and_then(state_of))
                .collect(),
            name: request.name.clone(),
            before: page::key_of(&list, &request.page_token)?.map(str::to_owned),
        };
        let mut runs: Vec<v1::Run> = self.plane.read(|controller, _| {
            let runs = controller.runs(&filter, size + 1);
            runs.iter().map(|run| v1::Run { series: figures(run), ..run_proto(controller, run) }).collect()
        });
        let more = runs.len() > size;
        runs.truncate(size);
        let next_page_token = match runs.last() {
            Some(last) if more => page::token_after(&list, &last.id),
            _ => String::new(),
        };
        Ok(Response::new(v1::ListRunsResponse { runs, next_page_token }))
    }

    type WatchRunStream = Messages<v1::WatchRunResponse>;

    async fn watch_run(
        &self,
        request: Request<v1::WatchRunRequest>,
    ) -> Result<Response<Self::WatchRunStream>, Status> {
        let id = request.into_inner().run_id;
        self.plane.read(|controller, _| controller.run(&id))?;
        let (sender, receiver) = mpsc::channel(16);
        tokio::spawn(watch(self.plane.clone(), id, sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn cancel_run(
        &self,
        request: Request<v1::CancelRunRequest>,
    ) -> Result<Response<v1::CancelRunResponse>, Status> {
        let request = request.into_inner();
        check_text("reason", &request.reason, REASON_BYTES_MAX)?;
        let run = self.plane.tell(|controller, now| {
            let run = controller.cancel(&request.run_id, &request.reason, now)?;
            Ok::<_, Status>(run_proto(controller, &run))
        })?;
        Ok(Response::new(v1::CancelRunResponse { run: Some(run) }))
    }

    type GetReportStream = Messages<v1::GetReportResponse>;

    async fn get_report(
        &self,
        request: Request<v1::GetReportRequest>,
    ) -> Result<Response<Self::GetReportStream>, Status> {
        let v1::GetReportRequest { run_id, names } = request.into_inner();
        check_count("names", names.len(), REPORT_FILES_MAX)?;
        let run = self.plane.read(|controller, _| controller.run(&run_id))?;
        let Some(directory) = run.report_path else {
            let message = format!("run {run_id} has no report yet; wait until it has ended");
            return Err(reasoned(Code::FailedPrecondition, &message, "REPORT_NOT_READY"));
        };
        let Ok(place) = self.reports.clone().try_acquire_owned() else {
            let message = format!("{REPORTS_MAX} reports are being read; try again when one is done");
            return Err(reasoned(Code::ResourceExhausted, &message, "TOO_MANY_REPORTS"));
        };
        let (sender, receiver) = mpsc::channel(4);
        tokio::task::spawn_blocking(move || {
            let _place = place;
            if let Err(status) = send_files(&directory, &names, &sender) {
                // A client that left does not need to hear.
                let _ = runtime::Handle::current().block_on(sender.send_timeout(Err(status), PATIENCE));
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

/// What a watcher was told.
#[derive(Default)]
struct Seen {
    state: Option<(RunState, String)>,
    seconds: u32,
}

/// What there is to tell of a run since the last look; `None` when it is forgotten. However much passed in between, its
/// last second comes before its end.
fn look(
    controller: &Controller,
    id: &str,
    seen: &mut Seen,
    now: Instant,
) -> Option<Vec<v1::WatchRunResponse>> {
    let run = controller.run(id).ok()?;
    let progress = match run.state {
        RunState::Running => controller.progress(id, now),
        // The last second of the plan is there when the load is over.
        RunState::Collecting => controller.progress(id, now).filter(|progress| {
            let planned = run.planned_duration.map_or(f64::MAX, |planned| planned.as_secs_f64().ceil());
            f64::from(progress.seconds) <= planned
        }),
        // Who asks for a run that is over has not followed it.
        _ if seen.state.is_some() => run.last.as_deref().cloned(),
        _ => None,
    };
    let progress = progress.filter(|progress| progress.seconds > seen.seconds);
    seen.seconds = progress.as_ref().map_or(seen.seconds, |progress| progress.seconds);
    let state = Some((run.state, run.reason.clone()));
    let is_news = seen.state != state;
    seen.state = state;
    let wall_time = Some(timestamp(controller.unix_ms(now)));
    let message = |run, progress| v1::WatchRunResponse { run, progress, wall_time };
    let told = is_news.then(|| run_proto(controller, &run));
    let progress = progress.map(|progress| progress_proto(&run, &progress));
    Some(match (told, progress) {
        (None, None) => Vec::new(),
        (Some(told), Some(progress)) if run.state.is_final() => {
            vec![message(None, Some(progress)), message(Some(told), None)]
        }
        (told, progress) => vec![message(told, progress)],
    })
}

/// Sends the run whenever its state changes, and its progress once a second, until it has ended.
async fn watch(
    plane: Arc<ControlPlane>,
    id: String,
    sender: mpsc::Sender<Result<v1::WatchRunResponse, Status>>,
) {
    let mut changes = plane.changes();
    let mut seen = Seen::default();
    loop {
        changes.mark_unchanged();
        let Some(news) = plane.read(|controller, now| look(controller, &id, &mut seen, now)) else { return };
        for message in news {
            if sender.send(Ok(message)).await.is_err() {
                return;
            }
        }
        if seen.state.as_ref().is_some_and(|(state, _)| state.is_final()) {
            return;
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(WATCH_HEARTBEAT) => {
                let heartbeat = v1::WatchRunResponse::default();
                if sender.send(Ok(heartbeat)).await.is_err() {
                    return;
                }
            }
            () = sender.closed() => return,
        }
    }
}

fn send_files(
    directory: &std::path::Path,
    names: &[String],
    sender: &mpsc::Sender<Result<v1::GetReportResponse, Status>>,
) -> Result<(), Status> {
    let runtime = runtime::Handle::current();
    let gone = |why: std::io::Error| Status::not_found(format!("{}: {why}", directory.display()));
    let mut files: Vec<_> = std::fs::read_dir(directory)
        .map_err(gone)?
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()))
        .collect();
    files.sort_by_key(std::fs::DirEntry::file_name);
    for name in names {
        if !files.iter().any(|file| file.file_name().to_str() == Some(name)) {
            return Err(Status::not_found(format!("the report has no file `{name}`")));
        }
    }
    for entry in files {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !names.is_empty() && !names.contains(&name) {
            continue;
        }
        let mut file = std::fs::File::open(entry.path()).map_err(gone)?;
        let size_bytes = file.metadata().map_err(gone)?.len();
        let mut offset_bytes = 0;
        loop {
            let mut data = Vec::with_capacity(PIECE_BYTES);
            file.by_ref().take(PIECE_BYTES as u64).read_to_end(&mut data).map_err(gone)?;
            let read = data.len() as u64;
            if read == 0 && offset_bytes > 0 {
                break;
            }
            let piece = v1::GetReportResponse { name: name.clone(), size_bytes, offset_bytes, data };
            if runtime.block_on(sender.send_timeout(Ok(piece), PATIENCE)).is_err() {
                return Ok(());
            }
            offset_bytes += read;
            if read == 0 || offset_bytes >= size_bytes {
                break;
            }
        }
    }
    Ok(())
}

fn run_proto(controller: &Controller, run: &Run) -> v1::Run {
    let summary = run.result.as_ref().map(|result| &result.summary);
    v1::Run {
        id: run.id.clone(),
        name: run.name.clone(),
        state: state_proto(run.state).into(),
        verdict: grade_proto(run.verdict).into(),
        reasons: run.reasons.clone(),
        error: run.error.clone(),
        reason: run.reason.clone(),
        // Until then they are the nodes'; the progress of a run adds them up.
        counts: run.state.is_final().then(|| counts_proto(&run.counts)),
        series: run.result.as_ref().map(|result| v1::Series {
            response: Some(histogram_proto(&result.response, true)),
            service: Some(histogram_proto(&result.service, true)),
            lag: Some(histogram_proto(&result.lag, true)),
        }),
        slo_results: summary.map(slo_results).unwrap_or_default(),
        nodes: run.nodes.iter().enumerate().map(node_proto).collect(),
        fault_windows: summary.map(|summary| fault_windows(&run.id, summary)).unwrap_or_default(),
        file_name: run.file_name.clone(),
        file_text: String::new(),
        seed: run.seed,
        planned_duration: run.planned_duration.and_then(duration_proto),
        submitted_at: Some(timestamp(run.submitted_unix_ms)),
        started_at: run.started_unix_ms.map(timestamp),
        ended_at: run.ended_unix_ms.map(timestamp),
        report_path: run.report_path.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
        queue_position: controller.queue_position(&run.id).unwrap_or(0) as u32,
        labels: run.labels.clone().into_iter().collect(),
        failure_causes: summary.map(|summary| v1::FailureCauses {
            injected: summary.causes.injected,
            natural: summary.causes.natural,
            unknown_because: summary.causes.unknown_because.clone().unwrap_or_default(),
            own: summary.causes.own,
            unknown: summary.causes.unknown,
        }),
    }
}

/// The percentiles alone, which are known already: a page of runs is cheap.
fn figures(run: &Run) -> Option<v1::Series> {
    let summary = &run.result.as_ref()?.summary;
    let histogram = |series: &Series| {
        Some(v1::Histogram {
            hdr_v2: Vec::new(),
            count: series.count,
            min_ns: series.min,
            p50_ns: series.p50,
            p90_ns: series.p90,
            p95_ns: series.p95,
            p99_ns: series.p99,
            p999_ns: series.p99_9,
            max_ns: series.max,
        })
    };
    Some(v1::Series {
        response: histogram(&summary.response),
        service: histogram(&summary.service),
        lag: histogram(&summary.lag),
    })
}

fn slo_results(summary: &Summary) -> Vec<v1::SloResult> {
    let results = summary.slo.iter().map(|slo| v1::SloResult {
        objective: slo.slo.clone(),
        kept: slo.passed,
        measured: slo.actual.clone(),
    });
    results.collect()
}

fn fault_windows(run: &str, summary: &Summary) -> Vec<v1::FaultWindow> {
    let windows = summary.faults.iter().map(|fault| v1::FaultWindow {
        run_id: run.to_owned(),
        proxy: fault.proxy.clone(),
        behavior: fault.behavior.clone(),
        started_at_ns: fault.start_ns as i64,
        ended_at_ns: fault.end_ns as i64,
        injected: fault.injected.unwrap_or(0),
        ..v1::FaultWindow::default()
    });
    windows.collect()
}

fn node_proto((index, node): (usize, &RunNode)) -> v1::RunNode {
    v1::RunNode {
        node: node.node.clone(),
        shard_index: index as u32,
        counts: Some(counts_proto(&node.counts)),
        verdict: grade_proto(node.verdict).into(),
        reasons: node.lost.iter().chain(&node.reasons).cloned().collect(),
        clock_offset_ns: node.clock.offset_ns,
        clock_error_ns: node.clock.error.as_nanos() as u64,
        cpu_ratio_max: node.cpu_ratio_max,
        lost: node.lost.is_some(),
    }
}

fn progress_proto(run: &Run, progress: &Progress) -> v1::RunProgress {
    let counts = progress.second.counts;
    v1::RunProgress {
        elapsed: duration_proto(progress.elapsed),
        planned_duration: run.planned_duration.and_then(duration_proto),
        counts: Some(counts_proto(&progress.counts)),
        rate_per_second: (counts.ok + counts.error) as f64,
        planned_rate_per_second: counts.planned as f64,
        latest: Some(latest_series(&progress.second)),
        connections_open: progress.connections_open,
        verdict: grade_proto(Some(progress.verdict)).into(),
        reasons: progress.reasons.clone(),
        faults: progress.faults.clone(),
        nodes_reporting: progress.nodes_reporting,
        nodes: progress.nodes,
    }
}

fn latest_series(second: &Interval) -> v1::Series {
    let [response, service, lag] = series_of(second).map(|series| Some(histogram_proto(&series, false)));
    v1::Series { response, service, lag }
}

fn histogram_proto(distribution: &Distribution, with_counts: bool) -> v1::Histogram {
    if distribution.count() == 0 {
        return v1::Histogram::default();
    }
    v1::Histogram {
        hdr_v2: if with_counts { distribution.encode() } else { Vec::new() },
        count: distribution.count(),
        min_ns: distribution.min(),
        p50_ns: distribution.percentile(50.0),
        p90_ns: distribution.percentile(90.0),
        p95_ns: distribution.percentile(95.0),
        p99_ns: distribution.percentile(99.0),
        p999_ns: distribution.percentile(99.9),
        max_ns: distribution.max(),
    }
}

const STATES: [(RunState, v1::RunState); 10] = [
    (RunState::Queued, v1::RunState::Queued),
    (RunState::Preparing, v1::RunState::Preparing),
    (RunState::Ready, v1::RunState::Ready),
    (RunState::Running, v1::RunState::Running),
    (RunState::Collecting, v1::RunState::Collecting),
    (RunState::Passed, v1::RunState::Passed),
    (RunState::Failed, v1::RunState::Failed),
    (RunState::Invalid, v1::RunState::Invalid),
    (RunState::Errored, v1::RunState::Errored),
    (RunState::Cancelled, v1::RunState::Cancelled),
];

fn state_proto(state: RunState) -> v1::RunState {
    STATES.iter().find(|(ours, _)| *ours == state).map_or(v1::RunState::Unspecified, |(_, theirs)| *theirs)
}

fn state_of(state: v1::RunState) -> Option<RunState> {
    STATES.iter().find(|(_, theirs)| *theirs == state).map(|(ours, _)| *ours)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::tests::{PLAN, World};

    #[test]
    fn the_last_second_is_told_however_quickly_a_run_ends() {
        let mut world = World::with_agents(&["a", "b"]);
        let id = world.submit(PLAN);
        let mut seen = Seen::default();
        world.get_running(&id);
        let news = look(&world.controller, &id, &mut seen, world.now).unwrap();
        assert_eq!(news.len(), 1, "{news:?}");
        // All of the rest happens before the next look.
        world.deliver_all(&id);
        let report = world.write_reports().pop().unwrap();
        assert_eq!(report.result.summary.counts.ok, 400);
        let news = look(&world.controller, &id, &mut seen, world.now).unwrap();
        let [last, end] = news.as_slice() else { panic!("{news:?}") };
        let last = last.progress.as_ref().unwrap();
        assert_eq!((last.counts.unwrap().ok, last.rate_per_second, last.nodes_reporting), (400, 200.0, 2));
        let end = end.run.as_ref().unwrap();
        assert_eq!(end.state(), v1::RunState::Passed, "{end:?}");
        // Both series of a list are those of the run, without the counts behind them.
        let listed = figures(&world.controller.run(&id).unwrap()).unwrap();
        let shown = end.series.as_ref().unwrap();
        for (listed, shown) in [(&listed.response, &shown.response), (&listed.lag, &shown.lag)] {
            let shown = v1::Histogram { hdr_v2: Vec::new(), ..shown.clone().unwrap() };
            assert_eq!(listed.as_ref(), Some(&shown));
        }
        assert_eq!(look(&world.controller, &id, &mut seen, world.now).unwrap(), []);
        // One who comes late hears of the end alone.
        let news = look(&world.controller, &id, &mut Seen::default(), world.now).unwrap();
        assert!(matches!(news.as_slice(), [only] if only.progress.is_none()), "{news:?}");
    }

    #[test]
    fn a_run_that_has_not_ended_has_no_sums() {
        let mut world = World::with_agents(&["a"]);
        let id = world.submit(PLAN);
        let run = run_proto(&world.controller, &world.controller.run(&id).unwrap());
        assert_eq!((run.state(), run.counts, run.series), (v1::RunState::Queued, None, None));
    }

    #[test]
    fn every_state_has_a_name_on_the_wire() {
        for state in RunState::ALL {
            assert_eq!(state_of(state_proto(state)), Some(state));
        }
        assert_eq!(state_of(v1::RunState::Unspecified), None);
    }
}
