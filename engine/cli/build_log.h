/* What builds did: a line for each in the cache folder ("builds.jsonl"), and on request a trace of
 * one build in the format that Chrome's and Perfetto's viewers read. A recorder listens to the
 * events of one build. The log is a comfort: when it cannot be written, the build goes on; it is
 * cut to its newer half when it passes LQ_BUILD_LOG_BYTES_MAX. Several processes may append at the
 * same time. Thread rule: a recorder belongs to one thread. */
#ifndef LQ_ENGINE_CLI_BUILD_LOG_H
#define LQ_ENGINE_CLI_BUILD_LOG_H

#include "engine/build.h"
#include "engine/cli/command.h"

enum { LQ_BUILD_LOG_BYTES_MAX = 4 << 20 };

struct lq_recorder;

/* `keep_spans`: remember every step, for a trace. NULL when memory is out. */
struct lq_recorder *lq_recorder_create(bool keep_spans);
void lq_recorder_destroy(struct lq_recorder *recorder);
void lq_recorder_event(struct lq_recorder *recorder, const struct lq_event *event);
/* Writes the trace to `path`. */
enum lq_status lq_recorder_write_trace(const struct lq_recorder *recorder, const char *path,
                                       struct lq_error *err);
/* Appends the build to the log in the cache folder `dir`. */
void lq_recorder_append_log(const struct lq_recorder *recorder, const char *dir,
                            const struct lq_cli *cli, const struct lq_cli_build *build,
                            const struct lq_build_result *result, enum lq_status status);

#endif
