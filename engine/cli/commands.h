/* The functions behind the table of commands, one file each. They are called once by cli.c with
 * the words already parsed. Ownership, errors and thread rule as in command.h. */
#ifndef LQ_ENGINE_CLI_COMMANDS_H
#define LQ_ENGINE_CLI_COMMANDS_H

#include "engine/cli/command.h"

/* cache_commands.c: the rows of `lqbuild cache`. */
enum { LQ_CACHE_COMMAND_COUNT = 11 };
extern const struct lq_command lq_cache_commands[];

enum lq_status lq_command_build(struct lq_cli *cli, struct lq_error *err);
enum lq_status lq_command_init(struct lq_cli *cli, struct lq_error *err);
enum lq_status lq_command_check(struct lq_cli *cli, struct lq_error *err);
enum lq_status lq_command_fmt(struct lq_cli *cli, struct lq_error *err);
enum lq_status lq_command_rules(struct lq_cli *cli, struct lq_error *err);
enum lq_status lq_command_graph(struct lq_cli *cli, struct lq_error *err);
enum lq_status lq_command_explain(struct lq_cli *cli, struct lq_error *err);
enum lq_status lq_command_log(struct lq_cli *cli, struct lq_error *err);
enum lq_status lq_command_query(struct lq_cli *cli, struct lq_error *err);
enum lq_status lq_command_inspect(struct lq_cli *cli, struct lq_error *err);
enum lq_status lq_command_verify(struct lq_cli *cli, struct lq_error *err);
enum lq_status lq_command_clean(struct lq_cli *cli, struct lq_error *err);
enum lq_status lq_command_cache_stats(struct lq_cli *cli, struct lq_error *err);
enum lq_status lq_command_cache_ls(struct lq_cli *cli, struct lq_error *err);
enum lq_status lq_command_cache_gc(struct lq_cli *cli, struct lq_error *err);
enum lq_status lq_command_cache_pin(struct lq_cli *cli, struct lq_error *err);
enum lq_status lq_command_cache_unpin(struct lq_cli *cli, struct lq_error *err);
enum lq_status lq_command_cache_rm(struct lq_cli *cli, struct lq_error *err);
enum lq_status lq_command_cache_verify(struct lq_cli *cli, struct lq_error *err);
enum lq_status lq_command_cache_repair(struct lq_cli *cli, struct lq_error *err);
enum lq_status lq_command_cache_compact(struct lq_cli *cli, struct lq_error *err);
enum lq_status lq_command_cache_export(struct lq_cli *cli, struct lq_error *err);
enum lq_status lq_command_cache_import(struct lq_cli *cli, struct lq_error *err);
enum lq_status lq_command_push(struct lq_cli *cli, struct lq_error *err);
enum lq_status lq_command_pull(struct lq_cli *cli, struct lq_error *err);
enum lq_status lq_command_fetch(struct lq_cli *cli, struct lq_error *err);
enum lq_status lq_command_key_generate(struct lq_cli *cli, struct lq_error *err);
enum lq_status lq_command_key_trust(struct lq_cli *cli, struct lq_error *err);
enum lq_status lq_command_key_list(struct lq_cli *cli, struct lq_error *err);
enum lq_status lq_command_quantize(struct lq_cli *cli, struct lq_error *err);
enum lq_status lq_command_analyze(struct lq_cli *cli, struct lq_error *err);
enum lq_status lq_command_profile_list(struct lq_cli *cli, struct lq_error *err);
enum lq_status lq_command_profile_show(struct lq_cli *cli, struct lq_error *err);
enum lq_status lq_command_profile_create(struct lq_cli *cli, struct lq_error *err);
enum lq_status lq_command_profile_validate(struct lq_cli *cli, struct lq_error *err);
enum lq_status lq_command_quality_report(struct lq_cli *cli, struct lq_error *err);
enum lq_status lq_command_quality_compare(struct lq_cli *cli, struct lq_error *err);
enum lq_status lq_command_tokenize(struct lq_cli *cli, struct lq_error *err);
enum lq_status lq_command_imatrix_convert(struct lq_cli *cli, struct lq_error *err);
enum lq_status lq_command_imatrix_merge(struct lq_cli *cli, struct lq_error *err);
enum lq_status lq_command_imatrix_stats(struct lq_cli *cli, struct lq_error *err);
enum lq_status lq_command_imatrix_compare(struct lq_cli *cli, struct lq_error *err);
enum lq_status lq_command_completion(struct lq_cli *cli, struct lq_error *err);
enum lq_status lq_command_help(struct lq_cli *cli, struct lq_error *err);
enum lq_status lq_command_version(struct lq_cli *cli, struct lq_error *err);

#endif
