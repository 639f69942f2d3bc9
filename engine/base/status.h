/* Status codes. One X-macro ties together the name in C, the words a person reads, and the process
 * exit code that docs/exit-codes.md promises. Numbers 3, 4, 5 and 10 to 16 are the command line
 * contract that scripts already know; they never change meaning. Thread rule: pure functions. */
#ifndef LQ_BASE_STATUS_H
#define LQ_BASE_STATUS_H

/* LQ_STATUS(name, exit code, error type in JSON output, words) */
#define LQ_STATUS_LIST(LQ_STATUS)                                                                  \
    LQ_STATUS(LQ_OK, 0, "Ok", "ok")                                                                \
    LQ_STATUS(LQ_EFAIL, 1, "Error", "failed")                                                      \
    LQ_STATUS(LQ_EUSAGE, 2, "UsageError", "wrong usage of the command line")                       \
    LQ_STATUS(LQ_EMODEL, 3, "ModelNotFound", "model not found")                                    \
    LQ_STATUS(LQ_EAUTH, 4, "AuthenticationRequired", "authentication required")                    \
    LQ_STATUS(LQ_ENOMEM, 5, "OutOfMemory", "out of memory")                                        \
    LQ_STATUS(LQ_EIO, 6, "FileError", "a file cannot be read or written")                          \
    LQ_STATUS(LQ_ERECIPE, 7, "RecipeError", "the recipe has an error")                             \
    LQ_STATUS(LQ_ECACHE, 8, "CacheError", "the cache cannot be used")                              \
    LQ_STATUS(LQ_EFORMAT, 9, "FormatError", "a file is malformed")                                 \
    LQ_STATUS(LQ_EIMATRIX, 10, "ImatrixError", "importance matrix not found or invalid")           \
    LQ_STATUS(LQ_EQUALITY, 11, "QualityDegradationError", "quality degradation exceeds threshold") \
    LQ_STATUS(LQ_ECOHERENCE, 12, "CoherenceCheckFailed", "coherence check failed")                 \
    LQ_STATUS(LQ_EPROFILE, 13, "ProfileError", "profile not found or invalid")                     \
    LQ_STATUS(LQ_ESMOOTH, 14, "SmoothQuantError", "SmoothQuant transformation failed")             \
    LQ_STATUS(LQ_ECALIBRATION, 15, "CalibrationError", "calibration data error")                   \
    LQ_STATUS(LQ_EIMPORTANCE, 16, "ImportanceError", "importance computation failed")              \
    LQ_STATUS(LQ_EUNSUPPORTED, 17, "UnsupportedError", "not supported")                            \
    LQ_STATUS(LQ_ECOMMAND, 18, "CommandFailed", "a recipe command failed")                         \
    LQ_STATUS(LQ_EINTERNAL, 70, "InternalError", "internal error, please report it")               \
    LQ_STATUS(LQ_ECANCELLED, 130, "Cancelled", "cancelled")

enum lq_status {
#define LQ_STATUS(name, exit_code, type, words) name,
    LQ_STATUS_LIST(LQ_STATUS)
#undef LQ_STATUS
        LQ_STATUS_COUNT
};

/* "LQ_EIO"; a fixed text for a number that is no status. */
const char *lq_status_name(enum lq_status status);
/* "FileError": the error_type of JSON output. */
const char *lq_status_type(enum lq_status status);
/* The words a person reads. */
const char *lq_status_text(enum lq_status status);
/* The process exit code. */
int lq_status_exit_code(enum lq_status status);

#endif
