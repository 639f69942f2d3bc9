/* `inspect` of a folder: maps the files of a model and lets lq_inspect_folder describe them. Thread
 * rule: the main thread. Limits: LQ_INSPECT_FILES_MAX safetensors files. */
#ifndef LQ_ENGINE_CLI_INSPECT_FOLDER_H
#define LQ_ENGINE_CLI_INSPECT_FOLDER_H

#include "engine/base/buffer.h"
#include "engine/cli/command.h"

/* `folder` is where it is, `name` how the user called it. Errors: LQ_EMODEL without config.json. */
enum lq_status lq_inspect_folder_files(struct lq_cli *cli, const char *name, const char *folder,
                                       struct lq_buffer *out, struct lq_error *err);

#endif
