/* A stand-in for NVIDIA's management library, with its C interface (nvml.h) and its rules for MIG, and no hardware.
 *
 * Names, numbers, structures and error codes are those of NVIDIA's public nvml.h, since programs are compiled and
 * written against them. The cards and everything about them stand in a text file; README.md describes it.
 *
 * Every call takes a lock, reads the file, answers from it, and, where it changed something, puts a new file in its
 * place by renaming. So a process that is killed leaves the state before or after a call, never one in between.
 */
/* Not _GNU_SOURCE: with it a new glibc takes sscanf and strtoul in versions that Debian 12 does not have. */
#define _DEFAULT_SOURCE
#define _XOPEN_SOURCE 700
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define API __attribute__((visibility("default")))
#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

/* --- What nvml.h says --------------------------------------------------------------------------------------------- */

typedef int nvmlReturn_t;
enum {
  NVML_SUCCESS = 0,
  NVML_ERROR_UNINITIALIZED = 1,
  NVML_ERROR_INVALID_ARGUMENT = 2,
  NVML_ERROR_NOT_SUPPORTED = 3,
  NVML_ERROR_NO_PERMISSION = 4,
  NVML_ERROR_NOT_FOUND = 6,
  NVML_ERROR_INSUFFICIENT_SIZE = 7,
  NVML_ERROR_DRIVER_NOT_LOADED = 9,
  NVML_ERROR_RESET_REQUIRED = 16,
  NVML_ERROR_OPERATING_SYSTEM = 17,
  NVML_ERROR_IN_USE = 19,
  NVML_ERROR_INSUFFICIENT_RESOURCES = 23,
  NVML_ERROR_ARGUMENT_VERSION_MISMATCH = 25,
};

#define NAME_SIZE 96
#define INFO_VERSION(type, version) ((unsigned int)(sizeof(type) | ((version) << 24U)))
/* Numbers that a driver knows for profiles of GPU instances, and for profiles of compute instances. */
#define GPU_PROFILES_OLD 0x0aU
#define GPU_PROFILES 0x12U
#define COMPUTE_PROFILES 0x08U

struct handle;
typedef struct handle *nvmlDevice_t;
typedef struct handle *nvmlGpuInstance_t;
typedef struct handle *nvmlComputeInstance_t;

typedef struct {
  char busIdLegacy[16];
  unsigned int domain, bus, device, pciDeviceId, pciSubSystemId;
  char busId[32];
} nvmlPciInfo_t;

typedef struct {
  unsigned long long total, free, used;
} nvmlMemory_t;

typedef struct {
  unsigned int version;
  unsigned long long total, reserved, free, used;
} nvmlMemory_v2_t;

typedef struct {
  unsigned int pid;
  unsigned long long usedGpuMemory;
  unsigned int gpuInstanceId, computeInstanceId;
} nvmlProcessInfo_t;

typedef struct {
  unsigned int multiprocessorCount, sharedCopyEngineCount, sharedDecoderCount, sharedEncoderCount, sharedJpegCount,
    sharedOfaCount, gpuInstanceSliceCount, computeInstanceSliceCount;
  unsigned long long memorySizeMB;
} nvmlDeviceAttributes_t;

typedef struct {
  unsigned int start, size;
} nvmlGpuInstancePlacement_t;
typedef nvmlGpuInstancePlacement_t nvmlComputeInstancePlacement_t;

typedef struct {
  unsigned int id, isP2pSupported, sliceCount, instanceCount, multiprocessorCount, copyEngineCount, decoderCount,
    encoderCount, jpegCount, ofaCount;
  unsigned long long memorySizeMB;
} nvmlGpuInstanceProfileInfo_t;

typedef struct {
  unsigned int version, id, isP2pSupported, sliceCount, instanceCount, multiprocessorCount, copyEngineCount,
    decoderCount, encoderCount, jpegCount, ofaCount;
  unsigned long long memorySizeMB;
  char name[NAME_SIZE];
} nvmlGpuInstanceProfileInfo_v2_t;

typedef struct {
  unsigned int version, id, sliceCount, instanceCount, multiprocessorCount, copyEngineCount, decoderCount,
    encoderCount, jpegCount, ofaCount;
  unsigned long long memorySizeMB;
  char name[NAME_SIZE];
  unsigned int capabilities;
} nvmlGpuInstanceProfileInfo_v3_t;

typedef struct {
  nvmlDevice_t device;
  unsigned int id, profileId;
  nvmlGpuInstancePlacement_t placement;
} nvmlGpuInstanceInfo_t;

typedef struct {
  unsigned int id, sliceCount, instanceCount, multiprocessorCount, sharedCopyEngineCount, sharedDecoderCount,
    sharedEncoderCount, sharedJpegCount, sharedOfaCount;
} nvmlComputeInstanceProfileInfo_t;

typedef struct {
  unsigned int version, id, sliceCount, instanceCount, multiprocessorCount, sharedCopyEngineCount, sharedDecoderCount,
    sharedEncoderCount, sharedJpegCount, sharedOfaCount;
  char name[NAME_SIZE];
} nvmlComputeInstanceProfileInfo_v2_t;

typedef struct {
  nvmlDevice_t device;
  nvmlGpuInstance_t gpuInstance;
  unsigned int id, profileId;
  nvmlComputeInstancePlacement_t placement;
} nvmlComputeInstanceInfo_t;

_Static_assert(sizeof(nvmlPciInfo_t) == 68, "as in nvml.h");
_Static_assert(sizeof(nvmlProcessInfo_t) == 24, "as in nvml.h");
_Static_assert(sizeof(nvmlMemory_v2_t) == 0x28, "as in nvml.h");
_Static_assert(sizeof(nvmlGpuInstanceProfileInfo_v2_t) == 0x98, "as in nvml.h");
_Static_assert(sizeof(nvmlComputeInstanceProfileInfo_v2_t) == 0x88, "as in nvml.h");

static const struct {
  nvmlReturn_t code;
  const char *text;
} error_texts[] = {
  {NVML_SUCCESS, "Success"},
  {NVML_ERROR_UNINITIALIZED, "Uninitialized"},
  {NVML_ERROR_INVALID_ARGUMENT, "Invalid Argument"},
  {NVML_ERROR_NOT_SUPPORTED, "Not Supported"},
  {NVML_ERROR_NO_PERMISSION, "Insufficient Permissions"},
  {5, "Already Initialized"},
  {NVML_ERROR_NOT_FOUND, "Not Found"},
  {NVML_ERROR_INSUFFICIENT_SIZE, "Insufficient Size"},
  {8, "Insufficient External Power"},
  {NVML_ERROR_DRIVER_NOT_LOADED, "Driver Not Loaded"},
  {10, "Timeout"},
  {11, "Interrupt Request Issue"},
  {12, "NVML Shared Library Not Found"},
  {13, "Function Not Found"},
  {14, "Corrupted infoROM"},
  {15, "GPU is lost"},
  {NVML_ERROR_RESET_REQUIRED, "GPU requires reset"},
  {NVML_ERROR_OPERATING_SYSTEM, "GPU access blocked by the operating system"},
  {18, "RM has detected an NVML/RM version mismatch."},
  {NVML_ERROR_IN_USE, "In use by another client"},
  {20, "Insufficient Memory"},
  {21, "No data"},
  {22, "Requested vgpu operation is not available on target device, because ECC is enabled"},
  {NVML_ERROR_INSUFFICIENT_RESOURCES, "Insufficient Resources"},
  {24, "Requested frequency is not supported"},
  {NVML_ERROR_ARGUMENT_VERSION_MISMATCH, "Argument version mismatch"},
  {26, "Deprecated"},
  {27, "Not ready"},
  {28, "GPU not found"},
  {29, "Invalid state"},
};

/* --- The cards that exist: models.txt, compiled in ---------------------------------------------------------------- */

#define MAX_MODELS 32
#define MAX_PROFILES 16
#define MAX_STARTS 16

struct profile {
  unsigned int id, number, compute, size, memory, limit, sm, engines[5], starts[MAX_STARTS], start_count;
  char name[32];
};

struct model {
  char name[40], architecture[16], card[64];
  unsigned int memory, compute, size, major, minor, device, profile_count;
  struct profile profiles[MAX_PROFILES];
};

static const char models_text[] =
#include "models.inc"
  ;
static struct model models[MAX_MODELS];
static unsigned int model_count;

static bool read_profile(struct model *model, const char *line) {
  char starts[64], *rest = starts, *item;
  if (model->profile_count == MAX_PROFILES) return false;
  struct profile *profile = &model->profiles[model->profile_count];
  memset(profile, 0, sizeof(*profile));
  if (sscanf(line, "profile %u %u %31s %u %u %u %u %u %u %u %u %u %u %63s", &profile->id, &profile->number,
        profile->name, &profile->compute, &profile->size, &profile->memory, &profile->limit, &profile->sm,
        &profile->engines[0], &profile->engines[1], &profile->engines[2], &profile->engines[3], &profile->engines[4],
        starts) != 14)
    return false;
  while ((item = strsep(&rest, ",")) != NULL && profile->start_count < MAX_STARTS)
    profile->starts[profile->start_count++] = (unsigned int)strtoul(item, NULL, 10);
  model->profile_count++;
  return true;
}

static void read_models(void) {
  char *text = strdup(models_text), *rest = text, *line;
  bool right = text != NULL;
  while (right && (line = strsep(&rest, "\n")) != NULL) {
    struct model *model = model_count ? &models[model_count - 1] : NULL;
    if (strncmp(line, "model ", 6) == 0) {
      right = model_count < MAX_MODELS;
      if (!right) break;
      model = &models[model_count++];
      right = sscanf(line, "model %39s %15s %u %u %u %u.%u %x", model->name, model->architecture, &model->memory,
                &model->compute, &model->size, &model->major, &model->minor, &model->device) == 8;
    } else if (strncmp(line, "card ", 5) == 0) {
      right = model != NULL;
      if (right && model->card[0] == '\0') snprintf(model->card, sizeof(model->card), "%s", line + 5);
    } else if (strncmp(line, "profile ", 8) == 0) {
      right = model != NULL && read_profile(model, line);
    }
  }
  free(text);
  if (!right) {
    fprintf(stderr, "libnvidia-ml (simulated): models.txt is wrong at model %u\n", model_count);
    abort();
  }
}

static const struct profile *profile_by_id(const struct model *model, unsigned int id) {
  for (unsigned int i = 0; i < model->profile_count; i++)
    if (model->profiles[i].id == id) return &model->profiles[i];
  return NULL;
}

static bool has_media_extensions(const struct profile *profile) {
  return strstr(profile->name, "+me") != NULL;
}

/* Slices of each profile of a compute instance; its number is also its identifier. */
static const unsigned int compute_slices[COMPUTE_PROFILES] = {1, 2, 3, 4, 7, 8, 6, 0};

/* The guide's tables: a 3g takes 1c, 2c, 3c; a 4g 1c, 2c, 4c; a 7g 1c, 2c, 3c, 4c, 7c. */
static bool offers(const struct profile *profile, unsigned int number) {
  if (number >= COMPUTE_PROFILES) return false;
  unsigned int slices = compute_slices[number];
  return slices > 0 && slices <= profile->compute && !(slices == 3 && profile->compute == 4);
}

/* --- State -------------------------------------------------------------------------------------------------------- */

#define MAX_GPUS 16
#define MAX_GPU_INSTANCES 16
#define MAX_COMPUTE_INSTANCES 64
#define MAX_LINES 32

struct gpu_instance {
  unsigned int id, start;
  unsigned long serial;
  const struct profile *profile;
};

struct compute_instance {
  unsigned int id, number, start;
  unsigned long serial, parent; /* serials are never used twice: a handle of something destroyed finds nothing */
};

struct gpu {
  char uuid[48], name[64];
  const struct model *model;
  unsigned int domain, bus, device, mode, pending, passthrough, persistence, destroyed;
  unsigned int gi_count, ci_count;
  struct gpu_instance gi[MAX_GPU_INSTANCES];
  struct compute_instance ci[MAX_COMPUTE_INSTANCES];
};

struct failing_call {
  char function[64];
  unsigned int at, code, seen;
};

static struct {
  char driver[80], nvml[80], loaded[8], privilege[16], modules[MAX_LINES][32];
  unsigned int cuda, gpu_count, module_count, fail_count;
  unsigned long serial;
  struct gpu gpus[MAX_GPUS];
  struct failing_call fails[MAX_LINES];
} now;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static unsigned int users;         /* nvmlInit without nvmlShutdown */
static unsigned int writing_calls; /* of this process, for SIMULATED_GPU_KILL_AT */
static pid_t writer;               /* this process: a fork counts from the beginning */

static const char *setting(const char *name, const char *otherwise) {
  const char *value = getenv(name);
  return value != NULL && value[0] != '\0' ? value : otherwise;
}

static const char *state_path(void) {
  return setting("SIMULATED_GPU_STATE", "/var/lib/simulated-gpu/state");
}

static void run_path(char *path, const char *name) {
  snprintf(path, PATH_MAX, "%s%s", setting("SIMULATED_GPU_RUN", "/run/simulated-gpu"), name);
}

static bool can_write(void) {
  return access(state_path(), W_OK) == 0;
}

static struct gpu *gpu_by_uuid(const char *uuid) {
  for (unsigned int i = 0; i < now.gpu_count; i++)
    if (strcmp(now.gpus[i].uuid, uuid) == 0) return &now.gpus[i];
  return NULL;
}

static struct gpu_instance *gi_by_serial(struct gpu **gpu, unsigned long serial) {
  for (unsigned int i = 0; i < now.gpu_count; i++)
    for (unsigned int j = 0; j < now.gpus[i].gi_count; j++)
      if (now.gpus[i].gi[j].serial == serial) {
        *gpu = &now.gpus[i];
        return &now.gpus[i].gi[j];
      }
  return NULL;
}

static struct compute_instance *ci_by_serial(struct gpu **gpu, unsigned long serial) {
  for (unsigned int i = 0; i < now.gpu_count; i++)
    for (unsigned int j = 0; j < now.gpus[i].ci_count; j++)
      if (now.gpus[i].ci[j].serial == serial) {
        *gpu = &now.gpus[i];
        return &now.gpus[i].ci[j];
      }
  return NULL;
}

static bool read_gpu(const char *line) {
  if (now.gpu_count == MAX_GPUS) return false;
  struct gpu *gpu = &now.gpus[now.gpu_count];
  char model[40];
  int name_at = 0;
  if (sscanf(line, "gpu %47s %39s %x:%x:%x.0 mode %u pending %u passthrough %u persistence %u destroyed %u name %n",
        gpu->uuid, model, &gpu->domain, &gpu->bus, &gpu->device, &gpu->mode, &gpu->pending, &gpu->passthrough,
        &gpu->persistence, &gpu->destroyed, &name_at) != 10 || name_at == 0)
    return false;
  snprintf(gpu->name, sizeof(gpu->name), "%s", line + name_at);
  for (unsigned int i = 0; i < model_count; i++)
    if (strcmp(models[i].name, model) == 0) gpu->model = &models[i];
  now.gpu_count++;
  return gpu->model != NULL;
}

static bool read_instance(const char *line) {
  char uuid[48];
  unsigned int id, what, start;
  unsigned long serial, parent;
  struct gpu *gpu;
  if (sscanf(line, "gi %47s id %u profile %u start %u serial %lu", uuid, &id, &what, &start, &serial) == 5) {
    gpu = gpu_by_uuid(uuid);
    const struct profile *profile = gpu == NULL ? NULL : profile_by_id(gpu->model, what);
    if (profile == NULL || gpu->gi_count == MAX_GPU_INSTANCES) return false;
    gpu->gi[gpu->gi_count++] = (struct gpu_instance){.id = id, .start = start, .serial = serial, .profile = profile};
    return true;
  }
  if (sscanf(line, "ci %47s id %u profile %u start %u serial %lu of %lu", uuid, &id, &what, &start, &serial, &parent) != 6)
    return false;
  gpu = gpu_by_uuid(uuid);
  if (gpu == NULL || gpu->ci_count == MAX_COMPUTE_INSTANCES || what >= COMPUTE_PROFILES) return false;
  gpu->ci[gpu->ci_count++] =
    (struct compute_instance){.id = id, .number = what, .start = start, .serial = serial, .parent = parent};
  return true;
}

static bool read_line(const char *line) {
  unsigned int major, minor;
  if (line[0] == '\0' || line[0] == '#') return true;
  if (strncmp(line, "gpu ", 4) == 0) return read_gpu(line);
  if (strncmp(line, "gi ", 3) == 0 || strncmp(line, "ci ", 3) == 0) return read_instance(line);
  if (sscanf(line, "cuda %u.%u", &major, &minor) == 2) {
    now.cuda = major * 1000 + minor * 10;
    return true;
  }
  if (strncmp(line, "module ", 7) == 0)
    return now.module_count < MAX_LINES && sscanf(line, "module %31s", now.modules[now.module_count++]) == 1;
  if (strncmp(line, "fail ", 5) == 0) {
    if (now.fail_count == MAX_LINES) return false;
    struct failing_call *fail = &now.fails[now.fail_count++];
    return sscanf(line, "fail %63s %u %u %u", fail->function, &fail->at, &fail->code, &fail->seen) >= 3;
  }
  return sscanf(line, "driver %79s", now.driver) == 1 || sscanf(line, "nvml %79s", now.nvml) == 1 ||
    sscanf(line, "loaded %7s", now.loaded) == 1 || sscanf(line, "privilege %15s", now.privilege) == 1 ||
    sscanf(line, "serial %lu", &now.serial) == 1;
}

static bool save(void) {
  char path[PATH_MAX];
  snprintf(path, sizeof(path), "%s.new", state_path());
  FILE *file = fopen(path, "we");
  if (file == NULL) return false;
  fprintf(file, "# State of the simulated driver; simulated-gpu changes it, and so do programs through libnvidia-ml.so.1\n");
  fprintf(file, "driver %s\nnvml %s\ncuda %u.%u\nloaded %s\nprivilege %s\nserial %lu\n", now.driver, now.nvml,
    now.cuda / 1000, now.cuda % 1000 / 10, now.loaded, now.privilege, now.serial);
  for (unsigned int i = 0; i < now.module_count; i++) fprintf(file, "module %s\n", now.modules[i]);
  for (unsigned int i = 0; i < now.fail_count; i++)
    fprintf(file, "fail %s %u %u %u\n", now.fails[i].function, now.fails[i].at, now.fails[i].code, now.fails[i].seen);
  for (unsigned int i = 0; i < now.gpu_count; i++) {
    const struct gpu *gpu = &now.gpus[i];
    fprintf(file,
      "gpu %s %s %08X:%02X:%02X.0 mode %u pending %u passthrough %u persistence %u destroyed %u name %s\n", gpu->uuid,
      gpu->model->name, gpu->domain, gpu->bus, gpu->device, gpu->mode, gpu->pending, gpu->passthrough,
      gpu->persistence, gpu->destroyed, gpu->name);
    for (unsigned int j = 0; j < gpu->gi_count; j++)
      fprintf(file, "gi %s id %u profile %u start %u serial %lu\n", gpu->uuid, gpu->gi[j].id, gpu->gi[j].profile->id,
        gpu->gi[j].start, gpu->gi[j].serial);
    for (unsigned int j = 0; j < gpu->ci_count; j++)
      fprintf(file, "ci %s id %u profile %u start %u serial %lu of %lu\n", gpu->uuid, gpu->ci[j].id, gpu->ci[j].number,
        gpu->ci[j].start, gpu->ci[j].serial, gpu->ci[j].parent);
  }
  bool written = ferror(file) == 0;
  written = fclose(file) == 0 && written;
  return written && chmod(path, 0644) == 0 && rename(path, state_path()) == 0;
}

/* What a restart of the computer does to a card. */
static void reboot(struct gpu *gpu) {
  gpu->gi_count = gpu->ci_count = 0;
  if (strcmp(gpu->model->architecture, "ampere") != 0) gpu->pending = 0;
  gpu->mode = gpu->pending;
}

/* /run is empty after a restart: the marker in it is missing then. Who may not write sees the same, and leaves it to
 * the next one who may. */
static void note_reboot(void) {
  char marker[PATH_MAX], folder[PATH_MAX];
  run_path(marker, "/booted");
  if (access(marker, F_OK) == 0) return;
  for (unsigned int i = 0; i < now.gpu_count; i++) reboot(&now.gpus[i]);
  if (!can_write() || !save()) return;
  run_path(folder, "");
  mkdir(folder, 0755);
  run_path(folder, "/use");
  if (mkdir(folder, 01777) == 0 && chmod(folder, 01777) != 0) return;
  close(open(marker, O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
}

/* The state as it is now; false where there is none, which is a computer without the driver. */
static bool load(void) {
  FILE *file = fopen(state_path(), "re");
  if (file == NULL) return false;
  memset(&now, 0, sizeof(now));
  snprintf(now.loaded, sizeof(now.loaded), "yes");
  snprintf(now.privilege, sizeof(now.privilege), "root");
  char *line = NULL;
  size_t size = 0;
  ssize_t length;
  bool right = true;
  while (right && (length = getline(&line, &size, file)) >= 0) {
    if (length > 0 && line[length - 1] == '\n') line[length - 1] = '\0';
    right = read_line(line);
    if (!right) fprintf(stderr, "libnvidia-ml (simulated): wrong line in %s: %s\n", state_path(), line);
  }
  free(line);
  fclose(file);
  if (right) note_reboot();
  return right;
}

/* --- One call ----------------------------------------------------------------------------------------------------- */

enum kind { READS, READS_PRIVILEGED, WRITES };

struct call {
  const char *function;
  enum kind kind;
  bool counted;
  int lock;
  char arguments[256];
};

/* SIMULATED_GPU_KILL_AT=3:before kills this process at the beginning of its third writing call. */
static void kill_at(const char *moment) {
  const char *where = getenv("SIMULATED_GPU_KILL_AT");
  char wanted[16];
  unsigned int number;
  if (where != NULL && sscanf(where, "%u:%15s", &number, wanted) == 2 && number == writing_calls &&
    strcmp(wanted, moment) == 0)
    kill(getpid(), SIGKILL);
}

static bool privileged(void) {
  if (strcmp(now.privilege, "everybody") == 0) return true;
  return strcmp(now.privilege, "root") == 0 && geteuid() == 0;
}

/* The code that a `fail` line asks for at this call of the function, or NVML_SUCCESS. */
static nvmlReturn_t asked_to_fail(struct call *call) {
  nvmlReturn_t result = NVML_SUCCESS;
  for (unsigned int i = 0; i < now.fail_count; i++) {
    struct failing_call *fail = &now.fails[i];
    if (strcmp(fail->function, call->function) != 0) continue;
    fail->seen++;
    call->counted = true;
    if (fail->at == 0 || fail->at == fail->seen) result = (nvmlReturn_t)fail->code;
  }
  return result;
}

static nvmlReturn_t enter(struct call *call, const char *function, enum kind kind, bool initialised) {
  *call = (struct call){.function = function, .kind = kind, .lock = -1};
  pthread_mutex_lock(&mutex);
  if (kind == WRITES) {
    if (writer != getpid()) writing_calls = 0;
    writer = getpid();
    writing_calls++;
    kill_at("before");
  }
  if (model_count == 0) read_models();
  if (initialised && users == 0) return NVML_ERROR_UNINITIALIZED;
  char path[PATH_MAX];
  snprintf(path, sizeof(path), "%s.lock", state_path());
  call->lock = open(path, O_RDONLY | O_CREAT | O_CLOEXEC, 0644);
  if (call->lock < 0) call->lock = open(path, O_RDONLY | O_CLOEXEC);
  while (call->lock >= 0 && flock(call->lock, LOCK_EX) != 0)
    if (errno != EINTR) return NVML_ERROR_OPERATING_SYSTEM;
  if (!load() || strcmp(now.loaded, "yes") != 0) return NVML_ERROR_DRIVER_NOT_LOADED;
  nvmlReturn_t result = asked_to_fail(call);
  if (result == NVML_SUCCESS && kind != READS && !privileged()) result = NVML_ERROR_NO_PERMISSION;
  return result;
}

static void note(struct call *call, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void note(struct call *call, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(call->arguments, sizeof(call->arguments), format, arguments);
  va_end(arguments);
}

static void write_down(const struct call *call, nvmlReturn_t result) {
  char path[PATH_MAX];
  snprintf(path, sizeof(path), "%s.calls", state_path());
  FILE *file = fopen(path, "ae");
  if (file == NULL) return; /* an unprivileged caller, who was refused */
  fprintf(file, "%s %s = %d\n", call->function, call->arguments, result);
  fclose(file);
}

static nvmlReturn_t leave(struct call *call, nvmlReturn_t result) {
  bool changed = call->kind == WRITES && result == NVML_SUCCESS;
  if (changed || (call->counted && can_write()))
    if (!save()) result = NVML_ERROR_OPERATING_SYSTEM;
  if (call->kind == WRITES) {
    write_down(call, result);
    kill_at("after");
  }
  if (call->lock >= 0) close(call->lock);
  pthread_mutex_unlock(&mutex);
  return result;
}

/* --- Handles ------------------------------------------------------------------------------------------------------ */

enum handle_kind { GPU = 1, MIG_DEVICE, GPU_INSTANCE, COMPUTE_INSTANCE };

struct handle {
  enum handle_kind kind;
  char uuid[48];        /* of the card */
  unsigned long serial; /* of the instance */
};

static struct handle handles[4096];
static unsigned int handle_count;

/* The same thing has the same handle for the life of a process. */
static struct handle *handle_of(enum handle_kind kind, const struct gpu *gpu, unsigned long serial) {
  for (unsigned int i = 0; i < handle_count; i++)
    if (handles[i].kind == kind && handles[i].serial == serial && strcmp(handles[i].uuid, gpu->uuid) == 0)
      return &handles[i];
  if (handle_count == COUNT_OF(handles)) return NULL;
  struct handle *handle = &handles[handle_count++];
  *handle = (struct handle){.kind = kind, .serial = serial};
  snprintf(handle->uuid, sizeof(handle->uuid), "%s", gpu->uuid);
  return handle;
}

static bool is(const struct handle *handle, enum handle_kind kind) {
  uintptr_t at = (uintptr_t)handle, first = (uintptr_t)handles;
  return at >= first && at < first + handle_count * sizeof(handles[0]) && (at - first) % sizeof(handles[0]) == 0 &&
    handle->kind == kind;
}

/* What a handle stands for, all of it that applies; false for a handle of something that is gone or never was. */
struct target {
  struct gpu *gpu;
  struct gpu_instance *gi;
  struct compute_instance *ci;
};

static bool resolve(struct target *target, const struct handle *handle, enum handle_kind kind) {
  *target = (struct target){0};
  if (!is(handle, kind)) return false;
  if (kind == GPU) target->gpu = gpu_by_uuid(handle->uuid);
  if (kind == GPU_INSTANCE) target->gi = gi_by_serial(&target->gpu, handle->serial);
  if (kind == COMPUTE_INSTANCE || kind == MIG_DEVICE) {
    target->ci = ci_by_serial(&target->gpu, handle->serial);
    if (target->ci != NULL) target->gi = gi_by_serial(&target->gpu, target->ci->parent);
  }
  return target->gpu != NULL && (kind == GPU || target->gi != NULL);
}

static bool resolve_device(struct target *target, const struct handle *handle) {
  return resolve(target, handle, GPU) || resolve(target, handle, MIG_DEVICE);
}

static nvmlReturn_t give(struct handle **where, struct handle *handle) {
  if (handle == NULL) return NVML_ERROR_INSUFFICIENT_RESOURCES;
  *where = handle;
  return NVML_SUCCESS;
}

static nvmlReturn_t give_text(char *where, unsigned int length, const char *text) {
  if (where == NULL) return NVML_ERROR_INVALID_ARGUMENT;
  if (strlen(text) + 1 > length) return NVML_ERROR_INSUFFICIENT_SIZE;
  memcpy(where, text, strlen(text) + 1);
  return NVML_SUCCESS;
}

/* --- Names, order and use of MIG devices -------------------------------------------------------------------------- */

static uint64_t fnv(uint64_t hash, const char *text) {
  for (; *text != '\0'; text++) hash = (hash ^ (unsigned char)*text) * 0x100000001b3ULL;
  return hash ^ (hash >> 29U);
}

/* The same card, profile and placement have the same UUID at all times. */
static void mig_uuid(char *uuid, const struct gpu *gpu, const struct gpu_instance *gi, const struct compute_instance *ci) {
  char what[128];
  snprintf(what, sizeof(what), "%s/%u/%u/%u/%u", gpu->uuid, gi->profile->id, gi->start, ci->number, ci->start);
  uint64_t high = fnv(0xcbf29ce484222325ULL, what), low = fnv(high * 0x9e3779b97f4a7c15ULL, what);
  snprintf(uuid, 48, "MIG-%08x-%04x-5%03x-%04x-%012llx", (unsigned int)(high >> 32U), (unsigned int)(high >> 16U) & 0xffffU,
    (unsigned int)high & 0xfffU, 0x8000U | ((unsigned int)(low >> 48U) & 0x3fffU),
    (unsigned long long)low & 0xffffffffffffULL);
}

/* "3g.20gb", or "1c.3g.20gb" where the compute instance has a part of the GPU instance only. */
static void mig_profile_name(char *name, size_t size, const struct profile *profile, unsigned int number) {
  if (compute_slices[number] == profile->compute)
    snprintf(name, size, "MIG %s", profile->name);
  else
    snprintf(name, size, "MIG %uc.%s", compute_slices[number], profile->name);
}

static int by_instance(const void *left, const void *right) {
  struct target one, other;
  memcpy(&one, left, sizeof(one));
  memcpy(&other, right, sizeof(other));
  if (one.gi->id != other.gi->id) return one.gi->id < other.gi->id ? -1 : 1;
  return one.ci->id < other.ci->id ? -1 : one.ci->id > other.ci->id;
}

/* The MIG devices of a card in the order of their index. The index of a device changes when one before it goes. */
static unsigned int mig_devices(struct gpu *gpu, struct target *found) {
  unsigned int count = 0;
  for (unsigned int i = 0; i < gpu->ci_count; i++) {
    struct gpu *parent = NULL;
    struct gpu_instance *gi = gi_by_serial(&parent, gpu->ci[i].parent);
    if (gi != NULL) found[count++] = (struct target){.gpu = gpu, .gi = gi, .ci = &gpu->ci[i]};
  }
  qsort(found, count, sizeof(*found), by_instance);
  return count;
}

/* Processes that hold a file of the folder `use` open. */
struct use {
  unsigned int pid;
  char of[48];
};

static struct use *uses;
static unsigned int use_count;

static void note_use(unsigned int pid, const char *of) {
  for (unsigned int i = 0; i < use_count; i++)
    if (uses[i].pid == pid && strcmp(uses[i].of, of) == 0) return;
  struct use *more = realloc(uses, (use_count + 1) * sizeof(*uses));
  if (more == NULL) abort();
  uses = more;
  uses[use_count].pid = pid;
  snprintf(uses[use_count++].of, sizeof(uses->of), "%s", of);
}

static void note_uses_of(unsigned int pid, const char *folder) {
  char path[64], link[PATH_MAX];
  snprintf(path, sizeof(path), "/proc/%u/fd", pid);
  DIR *files = opendir(path);
  if (files == NULL) return; /* ended meanwhile, or another user's */
  size_t length = strlen(folder);
  for (struct dirent *entry; (entry = readdir(files)) != NULL;) {
    ssize_t size = readlinkat(dirfd(files), entry->d_name, link, sizeof(link) - 1);
    if (size <= (ssize_t)length) continue;
    link[size] = '\0';
    if (strncmp(link, folder, length) == 0) note_use(pid, link + length);
  }
  closedir(files);
}

static void find_uses(void) {
  char path[PATH_MAX], folder[PATH_MAX + 2];
  use_count = 0;
  run_path(path, "/use");
  char *real = realpath(path, NULL);
  if (real == NULL) return;
  snprintf(folder, sizeof(folder), "%s/", real);
  free(real);
  /* Where there is no file nobody holds one, and looking through all processes takes long. */
  struct dirent **files = NULL;
  int count = scandir(folder, &files, NULL, NULL);
  for (int i = 0; i < count; i++) free(files[i]);
  free(files);
  if (count <= 2) return; /* the folder itself and the one above it */
  DIR *processes = opendir("/proc");
  if (processes == NULL) return;
  for (struct dirent *entry; (entry = readdir(processes)) != NULL;)
    if (isdigit((unsigned char)entry->d_name[0]))
      note_uses_of((unsigned int)strtoul(entry->d_name, NULL, 10), folder);
  closedir(processes);
}

static bool used(const char *of) {
  for (unsigned int i = 0; i < use_count; i++)
    if (strcmp(uses[i].of, of) == 0) return true;
  return false;
}

/* Memory of a process in MiB: what its environment says, since it has none in truth. */
static unsigned long long memory_of(unsigned int pid) {
  static const char name[] = "SIMULATED_GPU_MEMORY_MIB=";
  char path[64];
  snprintf(path, sizeof(path), "/proc/%u/environ", pid);
  unsigned long long memory = 1024;
  FILE *file = fopen(path, "re");
  if (file == NULL) return memory;
  char *entry = NULL;
  size_t size = 0;
  while (getdelim(&entry, &size, '\0', file) >= 0)
    if (strncmp(entry, name, sizeof(name) - 1) == 0) memory = strtoull(entry + sizeof(name) - 1, NULL, 10);
  free(entry);
  fclose(file);
  return memory;
}

static bool ci_in_use(const struct gpu *gpu, const struct compute_instance *ci) {
  struct gpu *parent = NULL;
  struct gpu_instance *gi = gi_by_serial(&parent, ci->parent);
  char uuid[48];
  if (gi == NULL) return false;
  mig_uuid(uuid, gpu, gi, ci);
  return used(uuid);
}

static bool card_in_use(const struct gpu *gpu) {
  bool busy = used(gpu->uuid);
  for (unsigned int i = 0; i < gpu->ci_count; i++) busy = busy || ci_in_use(gpu, &gpu->ci[i]);
  return busy;
}

/* --- Library and system ------------------------------------------------------------------------------------------- */

API const char *nvmlErrorString(nvmlReturn_t result) {
  for (unsigned int i = 0; i < COUNT_OF(error_texts); i++)
    if (error_texts[i].code == result) return error_texts[i].text;
  return "Unknown Error";
}

static nvmlReturn_t initialise(void) {
  struct call call;
  nvmlReturn_t result = enter(&call, "nvmlInit_v2", READS, false);
  if (result == NVML_SUCCESS) users++;
  return leave(&call, result);
}

API nvmlReturn_t nvmlInit_v2(void) {
  return initialise();
}

API nvmlReturn_t nvmlInit(void) {
  return initialise();
}

API nvmlReturn_t nvmlInitWithFlags(unsigned int flags) {
  (void)flags;
  return initialise();
}

API nvmlReturn_t nvmlShutdown(void) {
  pthread_mutex_lock(&mutex);
  nvmlReturn_t result = users > 0 ? NVML_SUCCESS : NVML_ERROR_UNINITIALIZED;
  if (users > 0) users--;
  pthread_mutex_unlock(&mutex);
  return result;
}

API nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned int length) {
  struct call call;
  nvmlReturn_t result = enter(&call, __func__, READS, true);
  if (result == NVML_SUCCESS) result = give_text(version, length, now.driver);
  return leave(&call, result);
}

API nvmlReturn_t nvmlSystemGetNVMLVersion(char *version, unsigned int length) {
  struct call call;
  nvmlReturn_t result = enter(&call, __func__, READS, true);
  if (result == NVML_SUCCESS) result = give_text(version, length, now.nvml);
  return leave(&call, result);
}

API nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *version) {
  struct call call;
  nvmlReturn_t result = enter(&call, __func__, READS, true);
  if (result == NVML_SUCCESS && version == NULL) result = NVML_ERROR_INVALID_ARGUMENT;
  if (result == NVML_SUCCESS) *version = (int)now.cuda;
  return leave(&call, result);
}

API nvmlReturn_t nvmlSystemGetCudaDriverVersion(int *version) {
  return nvmlSystemGetCudaDriverVersion_v2(version);
}

API nvmlReturn_t nvmlSystemGetProcessName(unsigned int pid, char *name, unsigned int length) {
  struct call call;
  nvmlReturn_t result = enter(&call, __func__, READS, true);
  if (result == NVML_SUCCESS && (name == NULL || length == 0)) result = NVML_ERROR_INVALID_ARGUMENT;
  if (result == NVML_SUCCESS) {
    char path[64], first[1024] = "";
    snprintf(path, sizeof(path), "/proc/%u/cmdline", pid);
    FILE *file = fopen(path, "re");
    if (file == NULL) {
      result = NVML_ERROR_NOT_FOUND;
    } else {
      /* The first argument, cut to what the caller has room for. */
      size_t size = fread(first, 1, sizeof(first) - 1, file);
      first[size] = '\0';
      fclose(file);
      snprintf(name, length, "%s", first);
    }
  }
  return leave(&call, result);
}

/* --- Cards -------------------------------------------------------------------------------------------------------- */

API nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *count) {
  struct call call;
  nvmlReturn_t result = enter(&call, __func__, READS, true);
  if (result == NVML_SUCCESS && count == NULL) result = NVML_ERROR_INVALID_ARGUMENT;
  if (result == NVML_SUCCESS) *count = now.gpu_count;
  return leave(&call, result);
}

API nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device) {
  struct call call;
  nvmlReturn_t result = enter(&call, __func__, READS, true);
  if (result == NVML_SUCCESS && (device == NULL || index >= now.gpu_count)) result = NVML_ERROR_INVALID_ARGUMENT;
  if (result == NVML_SUCCESS) result = give(device, handle_of(GPU, &now.gpus[index], 0));
  return leave(&call, result);
}

API nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device) {
  struct call call;
  nvmlReturn_t result = enter(&call, __func__, READS, true);
  if (result == NVML_SUCCESS && (uuid == NULL || device == NULL)) result = NVML_ERROR_INVALID_ARGUMENT;
  if (result == NVML_SUCCESS) {
    result = NVML_ERROR_NOT_FOUND;
    for (unsigned int i = 0; i < now.gpu_count && result == NVML_ERROR_NOT_FOUND; i++) {
      struct gpu *gpu = &now.gpus[i];
      if (strcmp(gpu->uuid, uuid) == 0) result = give(device, handle_of(GPU, gpu, 0));
      struct target found[MAX_COMPUTE_INSTANCES];
      unsigned int count = mig_devices(gpu, found);
      for (unsigned int j = 0; j < count; j++) {
        char mine[48];
        mig_uuid(mine, gpu, found[j].gi, found[j].ci);
        if (strcmp(mine, uuid) == 0) result = give(device, handle_of(MIG_DEVICE, gpu, found[j].ci->serial));
      }
    }
  }
  return leave(&call, result);
}

API nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char *address, nvmlDevice_t *device) {
  struct call call;
  nvmlReturn_t result = enter(&call, __func__, READS, true);
  unsigned int domain = 0, bus = 0, slot = 0;
  if (result == NVML_SUCCESS && (address == NULL || device == NULL ||
    (sscanf(address, "%x:%x:%x.0", &domain, &bus, &slot) != 3 && sscanf(address, "%x:%x.0", &bus, &slot) != 2)))
    result = NVML_ERROR_INVALID_ARGUMENT;
  if (result == NVML_SUCCESS) {
    result = NVML_ERROR_NOT_FOUND;
    for (unsigned int i = 0; i < now.gpu_count; i++) {
      struct gpu *gpu = &now.gpus[i];
      if (gpu->domain == domain && gpu->bus == bus && gpu->device == slot)
        result = give(device, handle_of(GPU, gpu, 0));
    }
  }
  return leave(&call, result);
}

API nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *name, unsigned int length) {
  struct call call;
  struct target target;
  nvmlReturn_t result = enter(&call, __func__, READS, true);
  if (result == NVML_SUCCESS && !resolve_device(&target, device)) result = NVML_ERROR_INVALID_ARGUMENT;
  if (result == NVML_SUCCESS) {
    char text[160], profile[48] = "";
    if (target.ci != NULL) mig_profile_name(profile, sizeof(profile), target.gi->profile, target.ci->number);
    snprintf(text, sizeof(text), "%s%s%s", target.gpu->name, target.ci == NULL ? "" : " ", profile);
    result = give_text(name, length, text);
  }
  return leave(&call, result);
}

API nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *uuid, unsigned int length) {
  struct call call;
  struct target target;
  nvmlReturn_t result = enter(&call, __func__, READS, true);
  if (result == NVML_SUCCESS && !resolve_device(&target, device)) result = NVML_ERROR_INVALID_ARGUMENT;
  if (result == NVML_SUCCESS) {
    char text[48];
    snprintf(text, sizeof(text), "%s", target.gpu->uuid);
    if (target.ci != NULL) mig_uuid(text, target.gpu, target.gi, target.ci);
    result = give_text(uuid, length, text);
  }
  return leave(&call, result);
}

API nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t *info) {
  struct call call;
  struct target target;
  nvmlReturn_t result = enter(&call, __func__, READS, true);
  if (result == NVML_SUCCESS && (info == NULL || !resolve_device(&target, device))) result = NVML_ERROR_INVALID_ARGUMENT;
  if (result == NVML_SUCCESS) {
    const struct gpu *gpu = target.gpu;
    memset(info, 0, sizeof(*info));
    info->domain = gpu->domain;
    info->bus = gpu->bus;
    info->device = gpu->device;
    info->pciDeviceId = gpu->model->device << 16U | 0x10deU;
    snprintf(info->busId, sizeof(info->busId), "%08X:%02X:%02X.0", gpu->domain, gpu->bus, gpu->device);
    snprintf(info->busIdLegacy, sizeof(info->busIdLegacy), "%04X:%02X:%02X.0", gpu->domain & 0xffffU, gpu->bus & 0xffU,
      gpu->device & 0xffU);
  }
  return leave(&call, result);
}

API nvmlReturn_t nvmlDeviceGetIndex(nvmlDevice_t device, unsigned int *index) {
  struct call call;
  struct target target;
  nvmlReturn_t result = enter(&call, __func__, READS, true);
  if (result == NVML_SUCCESS && (index == NULL || !resolve_device(&target, device))) result = NVML_ERROR_INVALID_ARGUMENT;
  if (result == NVML_SUCCESS) {
    struct target found[MAX_COMPUTE_INSTANCES];
    *index = (unsigned int)(target.gpu - now.gpus);
    unsigned int count = target.ci == NULL ? 0 : mig_devices(target.gpu, found);
    for (unsigned int i = 0; i < count; i++)
      if (found[i].ci == target.ci) *index = i;
  }
  return leave(&call, result);
}

API nvmlReturn_t nvmlDeviceGetMinorNumber(nvmlDevice_t device, unsigned int *minor) {
  struct call call;
  struct target target;
  nvmlReturn_t result = enter(&call, __func__, READS, true);
  if (result == NVML_SUCCESS && (minor == NULL || !resolve_device(&target, device))) result = NVML_ERROR_INVALID_ARGUMENT;
  if (result == NVML_SUCCESS) *minor = (unsigned int)(target.gpu - now.gpus);
  return leave(&call, result);
}

API nvmlReturn_t nvmlDeviceGetPersistenceMode(nvmlDevice_t device, unsigned int *mode) {
  struct call call;
  struct target target;
  nvmlReturn_t result = enter(&call, __func__, READS, true);
  if (result == NVML_SUCCESS && (mode == NULL || !resolve(&target, device, GPU))) result = NVML_ERROR_INVALID_ARGUMENT;
  if (result == NVML_SUCCESS) *mode = target.gpu->persistence;
  return leave(&call, result);
}

API nvmlReturn_t nvmlDeviceGetCudaComputeCapability(nvmlDevice_t device, int *major, int *minor) {
  struct call call;
  struct target target;
  nvmlReturn_t result = enter(&call, __func__, READS, true);
  if (result == NVML_SUCCESS && (major == NULL || minor == NULL || !resolve_device(&target, device)))
    result = NVML_ERROR_INVALID_ARGUMENT;
  if (result == NVML_SUCCESS) {
    *major = (int)target.gpu->model->major;
    *minor = (int)target.gpu->model->minor;
  }
  return leave(&call, result);
}

/* The processes of a card or of one MIG device, at most `room` of them; returns how many there are. */
static unsigned int processes_of(const struct target *target, nvmlProcessInfo_t *infos, unsigned int room) {
  struct target found[MAX_COMPUTE_INSTANCES];
  unsigned int devices = 1, count = 0;
  found[0] = *target;
  if (target->ci == NULL && target->gpu->mode == 1) devices = mig_devices(target->gpu, found);
  find_uses();
  for (unsigned int i = 0; i < devices; i++) {
    char uuid[48];
    snprintf(uuid, sizeof(uuid), "%s", target->gpu->uuid);
    if (found[i].ci != NULL) mig_uuid(uuid, target->gpu, found[i].gi, found[i].ci);
    for (unsigned int j = 0; j < use_count; j++) {
      if (strcmp(uses[j].of, uuid) != 0) continue;
      if (count < room)
        infos[count] = (nvmlProcessInfo_t){
          .pid = uses[j].pid,
          .usedGpuMemory = memory_of(uses[j].pid) << 20U,
          .gpuInstanceId = found[i].ci == NULL ? UINT_MAX : found[i].gi->id,
          .computeInstanceId = found[i].ci == NULL ? UINT_MAX : found[i].ci->id,
        };
      count++;
    }
  }
  return count;
}

static nvmlReturn_t running_processes(const char *function, nvmlDevice_t device, unsigned int *count,
  nvmlProcessInfo_t *infos, bool any) {
  struct call call;
  struct target target;
  nvmlReturn_t result = enter(&call, function, READS, true);
  if (result == NVML_SUCCESS && (count == NULL || !resolve_device(&target, device))) result = NVML_ERROR_INVALID_ARGUMENT;
  /* All processes of a card in MIG mode are for the privileged; those of one MIG device are not. */
  if (result == NVML_SUCCESS && target.ci == NULL && target.gpu->mode == 1 && !privileged())
    result = NVML_ERROR_NO_PERMISSION;
  if (result == NVML_SUCCESS) {
    unsigned int room = infos == NULL ? 0 : *count;
    *count = any ? processes_of(&target, infos, room) : 0;
    if (*count > room) result = NVML_ERROR_INSUFFICIENT_SIZE;
  }
  return leave(&call, result);
}

API nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t device, unsigned int *count, nvmlProcessInfo_t *infos) {
  return running_processes(__func__, device, count, infos, true);
}

API nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v2(nvmlDevice_t device, unsigned int *count, nvmlProcessInfo_t *infos) {
  return running_processes(__func__, device, count, infos, true);
}

API nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses_v3(nvmlDevice_t device, unsigned int *count, nvmlProcessInfo_t *infos) {
  return running_processes(__func__, device, count, infos, false);
}

API nvmlReturn_t nvmlDeviceGetMPSComputeRunningProcesses_v3(nvmlDevice_t device, unsigned int *count, nvmlProcessInfo_t *infos) {
  return running_processes(__func__, device, count, infos, false);
}

static nvmlReturn_t memory_info(const char *function, nvmlDevice_t device, unsigned long long *total, unsigned long long *use) {
  struct call call;
  struct target target;
  nvmlProcessInfo_t infos[256];
  nvmlReturn_t result = enter(&call, function, READS, true);
  if (result == NVML_SUCCESS && !resolve_device(&target, device)) result = NVML_ERROR_INVALID_ARGUMENT;
  if (result == NVML_SUCCESS) {
    *total = (unsigned long long)(target.ci == NULL ? target.gpu->model->memory : target.gi->profile->memory) << 20U;
    *use = 0;
    unsigned int count = processes_of(&target, infos, COUNT_OF(infos));
    for (unsigned int i = 0; i < count && i < COUNT_OF(infos); i++) *use += infos[i].usedGpuMemory;
    if (*use > *total) *use = *total;
  }
  return leave(&call, result);
}

API nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory) {
  unsigned long long total = 0, use = 0;
  if (memory == NULL) return NVML_ERROR_INVALID_ARGUMENT;
  nvmlReturn_t result = memory_info(__func__, device, &total, &use);
  if (result == NVML_SUCCESS) *memory = (nvmlMemory_t){.total = total, .free = total - use, .used = use};
  return result;
}

API nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory) {
  unsigned long long total = 0, use = 0;
  if (memory == NULL) return NVML_ERROR_INVALID_ARGUMENT;
  if (memory->version != INFO_VERSION(nvmlMemory_v2_t, 2U)) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
  nvmlReturn_t result = memory_info(__func__, device, &total, &use);
  if (result == NVML_SUCCESS)
    *memory = (nvmlMemory_v2_t){.version = memory->version, .total = total, .free = total - use, .used = use};
  return result;
}

API nvmlReturn_t nvmlDeviceGetAttributes_v2(nvmlDevice_t device, nvmlDeviceAttributes_t *attributes) {
  struct call call;
  struct target target;
  nvmlReturn_t result = enter(&call, __func__, READS, true);
  if (result == NVML_SUCCESS && (attributes == NULL || !resolve_device(&target, device)))
    result = NVML_ERROR_INVALID_ARGUMENT;
  if (result == NVML_SUCCESS && target.ci == NULL) result = NVML_ERROR_NOT_SUPPORTED;
  if (result == NVML_SUCCESS) {
    const struct profile *profile = target.gi->profile;
    unsigned int slices = compute_slices[target.ci->number];
    *attributes = (nvmlDeviceAttributes_t){
      .multiprocessorCount = profile->sm * slices / profile->compute,
      .sharedCopyEngineCount = profile->engines[0],
      .sharedDecoderCount = profile->engines[1],
      .sharedEncoderCount = profile->engines[2],
      .sharedJpegCount = profile->engines[3],
      .sharedOfaCount = profile->engines[4],
      .gpuInstanceSliceCount = profile->compute,
      .computeInstanceSliceCount = slices,
      .memorySizeMB = profile->memory,
    };
  }
  return leave(&call, result);
}

/* --- MIG mode ----------------------------------------------------------------------------------------------------- */

/* What keeps a card from being reset. */
static bool reset_blocked(const struct gpu *gpu) {
  find_uses();
  if (card_in_use(gpu) || used("driver")) return true;
  for (unsigned int i = 0; i < now.module_count; i++)
    if (strcmp(now.modules[i], "nvidia_drm") == 0) return true;
  return false;
}

static nvmlReturn_t activate(struct gpu *gpu) {
  if (gpu->mode == gpu->pending) return NVML_SUCCESS;
  bool ampere = strcmp(gpu->model->architecture, "ampere") == 0;
  if (ampere && gpu->passthrough) return NVML_ERROR_RESET_REQUIRED;
  find_uses();
  if (gpu->ci_count > 0 || (ampere ? reset_blocked(gpu) : card_in_use(gpu))) return NVML_ERROR_IN_USE;
  gpu->destroyed += gpu->gi_count;
  gpu->gi_count = 0;
  gpu->mode = gpu->pending;
  return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceSetMigMode(nvmlDevice_t device, unsigned int mode, nvmlReturn_t *activation) {
  struct call call;
  struct target target;
  nvmlReturn_t result = enter(&call, __func__, WRITES, true);
  if (result == NVML_SUCCESS && (mode > 1 || activation == NULL || !resolve(&target, device, GPU)))
    result = NVML_ERROR_INVALID_ARGUMENT;
  if (result == NVML_SUCCESS && target.gpu->model->profile_count == 0) result = NVML_ERROR_NOT_SUPPORTED;
  if (result == NVML_SUCCESS) {
    target.gpu->pending = mode;
    *activation = activate(target.gpu);
    note(&call, "%s %u activation %d", target.gpu->uuid, mode, *activation);
  }
  return leave(&call, result);
}

API nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned int *current, unsigned int *pending) {
  struct call call;
  struct target target;
  nvmlReturn_t result = enter(&call, __func__, READS, true);
  if (result == NVML_SUCCESS && (current == NULL || pending == NULL || !resolve_device(&target, device)))
    result = NVML_ERROR_INVALID_ARGUMENT;
  if (result == NVML_SUCCESS && target.gpu->model->profile_count == 0) result = NVML_ERROR_NOT_SUPPORTED;
  if (result == NVML_SUCCESS) {
    *current = target.gpu->mode;
    *pending = target.gpu->pending;
  }
  return leave(&call, result);
}

/* --- MIG devices -------------------------------------------------------------------------------------------------- */

API nvmlReturn_t nvmlDeviceIsMigDeviceHandle(nvmlDevice_t device, unsigned int *is_mig) {
  struct call call;
  struct target target;
  nvmlReturn_t result = enter(&call, __func__, READS, true);
  if (result == NVML_SUCCESS && (is_mig == NULL || !resolve_device(&target, device))) result = NVML_ERROR_INVALID_ARGUMENT;
  if (result == NVML_SUCCESS) *is_mig = target.ci != NULL;
  return leave(&call, result);
}

API nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t device, unsigned int *count) {
  struct call call;
  struct target target;
  nvmlReturn_t result = enter(&call, __func__, READS, true);
  if (result == NVML_SUCCESS && (count == NULL || !resolve(&target, device, GPU))) result = NVML_ERROR_INVALID_ARGUMENT;
  if (result == NVML_SUCCESS) *count = target.gpu->mode == 1 ? target.gpu->model->compute : 0;
  return leave(&call, result);
}

API nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t device, unsigned int index, nvmlDevice_t *mig) {
  struct call call;
  struct target target, found[MAX_COMPUTE_INSTANCES];
  nvmlReturn_t result = enter(&call, __func__, READS, true);
  if (result == NVML_SUCCESS && (mig == NULL || !resolve(&target, device, GPU))) result = NVML_ERROR_INVALID_ARGUMENT;
  if (result == NVML_SUCCESS && target.gpu->mode == 0) result = NVML_ERROR_NOT_SUPPORTED;
  if (result == NVML_SUCCESS && index >= target.gpu->model->compute) result = NVML_ERROR_INVALID_ARGUMENT;
  if (result == NVML_SUCCESS) {
    unsigned int count = mig_devices(target.gpu, found);
    result = index < count ? give(mig, handle_of(MIG_DEVICE, target.gpu, found[index].ci->serial)) : NVML_ERROR_NOT_FOUND;
  }
  return leave(&call, result);
}

API nvmlReturn_t nvmlDeviceGetDeviceHandleFromMigDeviceHandle(nvmlDevice_t mig, nvmlDevice_t *device) {
  struct call call;
  struct target target;
  nvmlReturn_t result = enter(&call, __func__, READS, true);
  if (result == NVML_SUCCESS && (device == NULL || !resolve(&target, mig, MIG_DEVICE))) result = NVML_ERROR_INVALID_ARGUMENT;
  if (result == NVML_SUCCESS) result = give(device, handle_of(GPU, target.gpu, 0));
  return leave(&call, result);
}

static nvmlReturn_t instance_id(const char *function, nvmlDevice_t mig, unsigned int *id, bool of_gpu_instance) {
  struct call call;
  struct target target;
  nvmlReturn_t result = enter(&call, function, READS, true);
  if (result == NVML_SUCCESS && (id == NULL || !resolve_device(&target, mig))) result = NVML_ERROR_INVALID_ARGUMENT;
  if (result == NVML_SUCCESS && target.ci == NULL) result = NVML_ERROR_NOT_SUPPORTED;
  if (result == NVML_SUCCESS) *id = of_gpu_instance ? target.gi->id : target.ci->id;
  return leave(&call, result);
}

API nvmlReturn_t nvmlDeviceGetGpuInstanceId(nvmlDevice_t mig, unsigned int *id) {
  return instance_id(__func__, mig, id, true);
}

API nvmlReturn_t nvmlDeviceGetComputeInstanceId(nvmlDevice_t mig, unsigned int *id) {
  return instance_id(__func__, mig, id, false);
}

/* --- GPU instances ------------------------------------------------------------------------------------------------ */

/* Reading what profiles there are needs MIG mode before driver 550, and no longer from then on. */
static bool has_profiles(const struct gpu *gpu) {
  return gpu->model->profile_count > 0 && (gpu->mode == 1 || atoi(now.driver) >= 550);
}

static nvmlReturn_t gpu_profile(struct target *target, nvmlDevice_t device, unsigned int number, const struct profile **found) {
  *found = NULL;
  if (!resolve(target, device, GPU) || number >= (atoi(now.driver) < 570 ? GPU_PROFILES_OLD : GPU_PROFILES))
    return NVML_ERROR_INVALID_ARGUMENT;
  for (unsigned int i = 0; i < target->gpu->model->profile_count; i++)
    if (target->gpu->model->profiles[i].number == number) *found = &target->gpu->model->profiles[i];
  return *found != NULL && has_profiles(target->gpu) ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED;
}

API nvmlReturn_t nvmlDeviceGetGpuInstanceProfileInfo(nvmlDevice_t device, unsigned int number, nvmlGpuInstanceProfileInfo_t *info) {
  struct call call;
  struct target target;
  const struct profile *profile = NULL;
  nvmlReturn_t result = enter(&call, __func__, READS, true);
  if (result == NVML_SUCCESS && info == NULL) result = NVML_ERROR_INVALID_ARGUMENT;
  if (result == NVML_SUCCESS) result = gpu_profile(&target, device, number, &profile);
  if (result == NVML_SUCCESS)
    *info = (nvmlGpuInstanceProfileInfo_t){
      .id = profile->id,
      .sliceCount = profile->compute,
      .instanceCount = profile->limit,
      .multiprocessorCount = profile->sm,
      .copyEngineCount = profile->engines[0],
      .decoderCount = profile->engines[1],
      .encoderCount = profile->engines[2],
      .jpegCount = profile->engines[3],
      .ofaCount = profile->engines[4],
      .memorySizeMB = profile->memory,
    };
  return leave(&call, result);
}

/* The caller says by `version` which of two structures it has; they agree in the first two fields. */
API nvmlReturn_t nvmlDeviceGetGpuInstanceProfileInfoV(nvmlDevice_t device, unsigned int number, void *info) {
  struct call call;
  struct target target;
  const struct profile *profile = NULL;
  unsigned int version = 0;
  nvmlReturn_t result = enter(&call, __func__, READS, true);
  if (info != NULL) memcpy(&version, info, sizeof(version));
  bool third = version == INFO_VERSION(nvmlGpuInstanceProfileInfo_v3_t, 3U) && atoi(now.driver) >= 550;
  if (result == NVML_SUCCESS && !third && version != INFO_VERSION(nvmlGpuInstanceProfileInfo_v2_t, 2U))
    result = NVML_ERROR_INVALID_ARGUMENT;
  if (result == NVML_SUCCESS) result = gpu_profile(&target, device, number, &profile);
  if (result == NVML_SUCCESS && third) {
    nvmlGpuInstanceProfileInfo_v3_t *answer = info;
    *answer = (nvmlGpuInstanceProfileInfo_v3_t){
      .version = version,
      .id = profile->id,
      .sliceCount = profile->compute,
      .instanceCount = profile->limit,
      .multiprocessorCount = profile->sm,
      .copyEngineCount = profile->engines[0],
      .decoderCount = profile->engines[1],
      .encoderCount = profile->engines[2],
      .jpegCount = profile->engines[3],
      .ofaCount = profile->engines[4],
      .memorySizeMB = profile->memory,
    };
    snprintf(answer->name, sizeof(answer->name), "MIG %s", profile->name);
  } else if (result == NVML_SUCCESS) {
    nvmlGpuInstanceProfileInfo_v2_t *answer = info;
    *answer = (nvmlGpuInstanceProfileInfo_v2_t){
      .version = version,
      .id = profile->id,
      .sliceCount = profile->compute,
      .instanceCount = profile->limit,
      .multiprocessorCount = profile->sm,
      .copyEngineCount = profile->engines[0],
      .decoderCount = profile->engines[1],
      .encoderCount = profile->engines[2],
      .jpegCount = profile->engines[3],
      .ofaCount = profile->engines[4],
      .memorySizeMB = profile->memory,
    };
    snprintf(answer->name, sizeof(answer->name), "MIG %s", profile->name);
  }
  return leave(&call, result);
}

/* Memory slices that instances of a card take, one bit each. */
static uint32_t taken(const struct gpu *gpu) {
  uint32_t slices = 0;
  for (unsigned int i = 0; i < gpu->gi_count; i++)
    slices |= ((1U << gpu->gi[i].profile->size) - 1U) << gpu->gi[i].start;
  return slices;
}

static uint32_t covers(const struct profile *profile, unsigned int start) {
  return ((1U << profile->size) - 1U) << start;
}

/* How many more instances of a profile a card takes, with these memory slices taken. */
static unsigned int capacity(const struct gpu *gpu, const struct profile *profile, uint32_t slices) {
  unsigned int compute = 0, same = 0, free_starts = 0;
  bool media = false;
  for (unsigned int i = 0; i < gpu->gi_count; i++) {
    compute += gpu->gi[i].profile->compute;
    same += gpu->gi[i].profile == profile;
    media = media || has_media_extensions(gpu->gi[i].profile);
  }
  if (media && has_media_extensions(profile)) return 0;
  for (unsigned int i = 0; i < profile->start_count; i++)
    if ((covers(profile, profile->starts[i]) & slices) == 0) {
      slices |= covers(profile, profile->starts[i]);
      free_starts++;
    }
  unsigned int most = profile->limit > same ? profile->limit - same : 0;
  unsigned int by_compute = (gpu->model->compute - compute) / profile->compute;
  if (by_compute < most) most = by_compute;
  return free_starts < most ? free_starts : most;
}

/* Where the driver puts an instance when it is not told: where it takes the fewest places from others. This gives the
 * placements that the guide prints for its examples. Returns false where there is no room. */
static bool choose_start(const struct gpu *gpu, const struct profile *profile, unsigned int *start) {
  uint32_t slices = taken(gpu);
  unsigned int fewest = UINT_MAX;
  for (unsigned int i = 0; i < profile->start_count; i++) {
    uint32_t mine = covers(profile, profile->starts[i]);
    if (mine & slices) continue;
    unsigned int lost = 0;
    for (unsigned int j = 0; j < gpu->model->profile_count; j++) {
      const struct profile *other = &gpu->model->profiles[j];
      for (unsigned int k = 0; k < other->start_count; k++) {
        uint32_t place = covers(other, other->starts[k]);
        lost += (place & slices) == 0 && (place & mine) != 0;
      }
    }
    if (lost < fewest) {
      fewest = lost;
      *start = profile->starts[i];
    }
  }
  return fewest != UINT_MAX;
}

/* Identifiers follow size and, on a fresh card, place; after something was destroyed they are other ones. */
static unsigned int new_gi_id(const struct gpu *gpu, const struct profile *profile, unsigned int start) {
  unsigned int most = gpu->model->size / profile->size, number = start / profile->size + gpu->destroyed;
  for (unsigned int i = 0; i < most + MAX_GPU_INSTANCES; i++) {
    unsigned int id = i < most ? most - 1 + (number + i) % most : 2 * most - 1 + i - most;
    bool free_id = true;
    for (unsigned int j = 0; j < gpu->gi_count; j++) free_id = free_id && gpu->gi[j].id != id;
    if (free_id) return id;
  }
  return UINT_MAX;
}

static nvmlReturn_t instance_profile(struct target *target, nvmlDevice_t device, unsigned int id, bool in_mig_mode,
  const struct profile **profile) {
  if (!resolve(target, device, GPU)) return NVML_ERROR_INVALID_ARGUMENT;
  if (in_mig_mode ? target->gpu->mode == 0 : !has_profiles(target->gpu)) return NVML_ERROR_NOT_SUPPORTED;
  *profile = profile_by_id(target->gpu->model, id);
  return *profile == NULL ? NVML_ERROR_INVALID_ARGUMENT : NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetGpuInstanceRemainingCapacity(nvmlDevice_t device, unsigned int id, unsigned int *count) {
  struct call call;
  struct target target;
  const struct profile *profile = NULL;
  nvmlReturn_t result = enter(&call, __func__, READS_PRIVILEGED, true);
  if (result == NVML_SUCCESS && count == NULL) result = NVML_ERROR_INVALID_ARGUMENT;
  if (result == NVML_SUCCESS) result = instance_profile(&target, device, id, true, &profile);
  if (result == NVML_SUCCESS) *count = capacity(target.gpu, profile, taken(target.gpu));
  return leave(&call, result);
}

API nvmlReturn_t nvmlDeviceGetGpuInstancePossiblePlacements_v2(nvmlDevice_t device, unsigned int id,
  nvmlGpuInstancePlacement_t *placements, unsigned int *count) {
  struct call call;
  struct target target;
  const struct profile *profile = NULL;
  nvmlReturn_t result = enter(&call, __func__, READS_PRIVILEGED, true);
  if (result == NVML_SUCCESS && count == NULL) result = NVML_ERROR_INVALID_ARGUMENT;
  if (result == NVML_SUCCESS) result = instance_profile(&target, device, id, false, &profile);
  if (result == NVML_SUCCESS) {
    for (unsigned int i = 0; placements != NULL && i < profile->start_count; i++)
      placements[i] = (nvmlGpuInstancePlacement_t){.start = profile->starts[i], .size = profile->size};
    *count = profile->start_count;
  }
  return leave(&call, result);
}

static nvmlReturn_t create_gpu_instance(const char *function, nvmlDevice_t device, unsigned int id,
  const nvmlGpuInstancePlacement_t *placement, bool placed, nvmlGpuInstance_t *instance) {
  struct call call;
  struct target target;
  const struct profile *profile = NULL;
  nvmlReturn_t result = enter(&call, function, WRITES, true);
  if (result == NVML_SUCCESS && (instance == NULL || (placed && placement == NULL))) result = NVML_ERROR_INVALID_ARGUMENT;
  if (result == NVML_SUCCESS) result = instance_profile(&target, device, id, true, &profile);
  if (result == NVML_SUCCESS) {
    struct gpu *gpu = target.gpu;
    unsigned int start = 0;
    bool allowed = !placed, room = gpu->gi_count < MAX_GPU_INSTANCES && capacity(gpu, profile, 0) > 0;
    if (placed) {
      for (unsigned int i = 0; i < profile->start_count; i++)
        allowed = allowed || (profile->starts[i] == placement->start && profile->size == placement->size);
      start = placement->start;
    }
    note(&call, "%s %s at %u", gpu->uuid, profile->name, start);
    if (!allowed)
      result = NVML_ERROR_INVALID_ARGUMENT;
    else if (!room || (placed ? (covers(profile, start) & taken(gpu)) != 0 : !choose_start(gpu, profile, &start)))
      result = NVML_ERROR_INSUFFICIENT_RESOURCES;
    if (result == NVML_SUCCESS) {
      unsigned int instance_id = new_gi_id(gpu, profile, start);
      gpu->gi[gpu->gi_count++] =
        (struct gpu_instance){.id = instance_id, .start = start, .serial = ++now.serial, .profile = profile};
      note(&call, "%s %s at %u: %u", gpu->uuid, profile->name, start, instance_id);
      result = give(instance, handle_of(GPU_INSTANCE, gpu, now.serial));
    }
  }
  return leave(&call, result);
}

API nvmlReturn_t nvmlDeviceCreateGpuInstance(nvmlDevice_t device, unsigned int id, nvmlGpuInstance_t *instance) {
  return create_gpu_instance(__func__, device, id, NULL, false, instance);
}

API nvmlReturn_t nvmlDeviceCreateGpuInstanceWithPlacement(nvmlDevice_t device, unsigned int id,
  const nvmlGpuInstancePlacement_t *placement, nvmlGpuInstance_t *instance) {
  return create_gpu_instance(__func__, device, id, placement, true, instance);
}

API nvmlReturn_t nvmlGpuInstanceDestroy(nvmlGpuInstance_t instance) {
  struct call call;
  struct target target;
  nvmlReturn_t result = enter(&call, __func__, WRITES, true);
  if (result == NVML_SUCCESS && !resolve(&target, instance, GPU_INSTANCE)) result = NVML_ERROR_INVALID_ARGUMENT;
  if (result == NVML_SUCCESS) {
    struct gpu *gpu = target.gpu;
    note(&call, "%s %s at %u: %u", gpu->uuid, target.gi->profile->name, target.gi->start, target.gi->id);
    for (unsigned int i = 0; i < gpu->ci_count; i++)
      if (gpu->ci[i].parent == target.gi->serial) result = NVML_ERROR_IN_USE;
    if (result == NVML_SUCCESS) {
      *target.gi = gpu->gi[--gpu->gi_count];
      gpu->destroyed++;
    }
  }
  return leave(&call, result);
}

API nvmlReturn_t nvmlDeviceGetGpuInstances(nvmlDevice_t device, unsigned int id, nvmlGpuInstance_t *instances, unsigned int *count) {
  struct call call;
  struct target target;
  const struct profile *profile = NULL;
  nvmlReturn_t result = enter(&call, __func__, READS_PRIVILEGED, true);
  if (result == NVML_SUCCESS && (instances == NULL || count == NULL)) result = NVML_ERROR_INVALID_ARGUMENT;
  if (result == NVML_SUCCESS) result = instance_profile(&target, device, id, true, &profile);
  if (result == NVML_SUCCESS) {
    *count = 0;
    for (unsigned int i = 0; i < target.gpu->gi_count && result == NVML_SUCCESS; i++)
      if (target.gpu->gi[i].profile == profile)
        result = give(&instances[(*count)++], handle_of(GPU_INSTANCE, target.gpu, target.gpu->gi[i].serial));
  }
  return leave(&call, result);
}

API nvmlReturn_t nvmlDeviceGetGpuInstanceById(nvmlDevice_t device, unsigned int id, nvmlGpuInstance_t *instance) {
  struct call call;
  struct target target;
  nvmlReturn_t result = enter(&call, __func__, READS_PRIVILEGED, true);
  if (result == NVML_SUCCESS && (instance == NULL || !resolve(&target, device, GPU))) result = NVML_ERROR_INVALID_ARGUMENT;
  if (result == NVML_SUCCESS && target.gpu->mode == 0) result = NVML_ERROR_NOT_SUPPORTED;
  if (result == NVML_SUCCESS) {
    result = NVML_ERROR_NOT_FOUND;
    for (unsigned int i = 0; i < target.gpu->gi_count; i++)
      if (target.gpu->gi[i].id == id) result = give(instance, handle_of(GPU_INSTANCE, target.gpu, target.gpu->gi[i].serial));
  }
  return leave(&call, result);
}

API nvmlReturn_t nvmlGpuInstanceGetInfo(nvmlGpuInstance_t instance, nvmlGpuInstanceInfo_t *info) {
  struct call call;
  struct target target;
  nvmlReturn_t result = enter(&call, __func__, READS, true);
  if (result == NVML_SUCCESS && (info == NULL || !resolve(&target, instance, GPU_INSTANCE)))
    result = NVML_ERROR_INVALID_ARGUMENT;
  if (result == NVML_SUCCESS)
    *info = (nvmlGpuInstanceInfo_t){
      .device = handle_of(GPU, target.gpu, 0),
      .id = target.gi->id,
      .profileId = target.gi->profile->id,
      .placement = {.start = target.gi->start, .size = target.gi->profile->size},
    };
  return leave(&call, result);
}

/* --- Compute instances -------------------------------------------------------------------------------------------- */

static nvmlReturn_t compute_profile(struct target *target, nvmlGpuInstance_t instance, unsigned int number) {
  if (!resolve(target, instance, GPU_INSTANCE) || number >= COMPUTE_PROFILES) return NVML_ERROR_INVALID_ARGUMENT;
  return offers(target->gi->profile, number) ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED;
}

static nvmlComputeInstanceProfileInfo_t compute_profile_info(const struct profile *profile, unsigned int number) {
  unsigned int slices = compute_slices[number];
  return (nvmlComputeInstanceProfileInfo_t){
    .id = number,
    .sliceCount = slices,
    .instanceCount = profile->compute / slices,
    .multiprocessorCount = profile->sm * slices / profile->compute,
    .sharedCopyEngineCount = profile->engines[0],
    .sharedDecoderCount = profile->engines[1],
    .sharedEncoderCount = profile->engines[2],
    .sharedJpegCount = profile->engines[3],
    .sharedOfaCount = profile->engines[4],
  };
}

API nvmlReturn_t nvmlGpuInstanceGetComputeInstanceProfileInfo(nvmlGpuInstance_t instance, unsigned int number,
  unsigned int engines, nvmlComputeInstanceProfileInfo_t *info) {
  struct call call;
  struct target target;
  nvmlReturn_t result = enter(&call, __func__, READS, true);
  if (result == NVML_SUCCESS && (info == NULL || engines != 0)) result = NVML_ERROR_INVALID_ARGUMENT;
  if (result == NVML_SUCCESS) result = compute_profile(&target, instance, number);
  if (result == NVML_SUCCESS) *info = compute_profile_info(target.gi->profile, number);
  return leave(&call, result);
}

API nvmlReturn_t nvmlGpuInstanceGetComputeInstanceProfileInfoV(nvmlGpuInstance_t instance, unsigned int number,
  unsigned int engines, nvmlComputeInstanceProfileInfo_v2_t *info) {
  struct call call;
  struct target target;
  nvmlReturn_t result = enter(&call, __func__, READS, true);
  if (result == NVML_SUCCESS &&
    (info == NULL || engines != 0 || info->version != INFO_VERSION(nvmlComputeInstanceProfileInfo_v2_t, 2U)))
    result = NVML_ERROR_INVALID_ARGUMENT;
  if (result == NVML_SUCCESS) result = compute_profile(&target, instance, number);
  if (result == NVML_SUCCESS) {
    nvmlComputeInstanceProfileInfo_t first = compute_profile_info(target.gi->profile, number);
    *info = (nvmlComputeInstanceProfileInfo_v2_t){
      .version = info->version,
      .id = first.id,
      .sliceCount = first.sliceCount,
      .instanceCount = first.instanceCount,
      .multiprocessorCount = first.multiprocessorCount,
      .sharedCopyEngineCount = first.sharedCopyEngineCount,
      .sharedDecoderCount = first.sharedDecoderCount,
      .sharedEncoderCount = first.sharedEncoderCount,
      .sharedJpegCount = first.sharedJpegCount,
      .sharedOfaCount = first.sharedOfaCount,
    };
    mig_profile_name(info->name, sizeof(info->name), target.gi->profile, number);
  }
  return leave(&call, result);
}

/* Compute slices that the compute instances of a GPU instance take, one bit each. */
static uint32_t taken_compute(const struct target *target) {
  uint32_t slices = 0;
  for (unsigned int i = 0; i < target->gpu->ci_count; i++) {
    const struct compute_instance *ci = &target->gpu->ci[i];
    if (ci->parent == target->gi->serial) slices |= ((1U << compute_slices[ci->number]) - 1U) << ci->start;
  }
  return slices;
}

/* The first free place for a compute instance, or the one asked for; false where there is none. */
static bool choose_compute_start(const struct target *target, unsigned int number, unsigned int from, unsigned int to,
  unsigned int *start) {
  unsigned int slices = compute_slices[number];
  for (*start = from; *start <= to && *start + slices <= target->gi->profile->compute; ++*start)
    if ((taken_compute(target) & (((1U << slices) - 1U) << *start)) == 0) return true;
  return false;
}

API nvmlReturn_t nvmlGpuInstanceGetComputeInstanceRemainingCapacity(nvmlGpuInstance_t instance, unsigned int number,
  unsigned int *count) {
  struct call call;
  struct target target;
  nvmlReturn_t result = enter(&call, __func__, READS_PRIVILEGED, true);
  if (result == NVML_SUCCESS && count == NULL) result = NVML_ERROR_INVALID_ARGUMENT;
  if (result == NVML_SUCCESS) result = compute_profile(&target, instance, number);
  if (result == NVML_SUCCESS) {
    unsigned int start = 0;
    for (*count = 0; choose_compute_start(&target, number, start, UINT_MAX, &start); start += compute_slices[number])
      ++*count;
  }
  return leave(&call, result);
}

API nvmlReturn_t nvmlGpuInstanceGetComputeInstancePossiblePlacements(nvmlGpuInstance_t instance, unsigned int number,
  nvmlComputeInstancePlacement_t *placements, unsigned int *count) {
  struct call call;
  struct target target;
  nvmlReturn_t result = enter(&call, __func__, READS_PRIVILEGED, true);
  if (result == NVML_SUCCESS && count == NULL) result = NVML_ERROR_INVALID_ARGUMENT;
  if (result == NVML_SUCCESS) result = compute_profile(&target, instance, number);
  if (result == NVML_SUCCESS) {
    unsigned int slices = compute_slices[number];
    *count = target.gi->profile->compute - slices + 1;
    for (unsigned int i = 0; placements != NULL && i < *count; i++)
      placements[i] = (nvmlComputeInstancePlacement_t){.start = i, .size = slices};
  }
  return leave(&call, result);
}

static nvmlReturn_t create_compute_instance(const char *function, nvmlGpuInstance_t instance, unsigned int number,
  const nvmlComputeInstancePlacement_t *placement, bool placed, nvmlComputeInstance_t *created) {
  struct call call;
  struct target target;
  unsigned int start = 0;
  nvmlReturn_t result = enter(&call, function, WRITES, true);
  if (result == NVML_SUCCESS && (created == NULL || (placed && placement == NULL))) result = NVML_ERROR_INVALID_ARGUMENT;
  if (result == NVML_SUCCESS) result = compute_profile(&target, instance, number);
  if (result == NVML_SUCCESS && placed && placement->size != compute_slices[number]) result = NVML_ERROR_INVALID_ARGUMENT;
  if (result == NVML_SUCCESS) {
    struct gpu *gpu = target.gpu;
    unsigned int from = placed ? placement->start : 0, to = placed ? placement->start : UINT_MAX, id = 0;
    note(&call, "%s %s at %u: %u", gpu->uuid, target.gi->profile->name, target.gi->start, number);
    if (gpu->ci_count == MAX_COMPUTE_INSTANCES || !choose_compute_start(&target, number, from, to, &start)) {
      result = NVML_ERROR_INSUFFICIENT_RESOURCES;
    } else {
      for (unsigned int i = 0; i < gpu->ci_count; i++)
        if (gpu->ci[i].parent == target.gi->serial && gpu->ci[i].id == id) {
          id++;
          i = UINT_MAX; /* from the first one again */
        }
      gpu->ci[gpu->ci_count++] = (struct compute_instance){
        .id = id, .number = number, .start = start, .serial = ++now.serial, .parent = target.gi->serial};
      result = give(created, handle_of(COMPUTE_INSTANCE, gpu, now.serial));
    }
  }
  return leave(&call, result);
}

API nvmlReturn_t nvmlGpuInstanceCreateComputeInstance(nvmlGpuInstance_t instance, unsigned int number,
  nvmlComputeInstance_t *created) {
  return create_compute_instance(__func__, instance, number, NULL, false, created);
}

API nvmlReturn_t nvmlGpuInstanceCreateComputeInstanceWithPlacement(nvmlGpuInstance_t instance, unsigned int number,
  const nvmlComputeInstancePlacement_t *placement, nvmlComputeInstance_t *created) {
  return create_compute_instance(__func__, instance, number, placement, true, created);
}

API nvmlReturn_t nvmlComputeInstanceDestroy(nvmlComputeInstance_t instance) {
  struct call call;
  struct target target;
  nvmlReturn_t result = enter(&call, __func__, WRITES, true);
  if (result == NVML_SUCCESS && !resolve(&target, instance, COMPUTE_INSTANCE)) result = NVML_ERROR_INVALID_ARGUMENT;
  if (result == NVML_SUCCESS) {
    note(&call, "%s %s at %u: %u", target.gpu->uuid, target.gi->profile->name, target.gi->start, target.ci->number);
    find_uses();
    if (ci_in_use(target.gpu, target.ci))
      result = NVML_ERROR_IN_USE;
    else
      *target.ci = target.gpu->ci[--target.gpu->ci_count];
  }
  return leave(&call, result);
}

API nvmlReturn_t nvmlGpuInstanceGetComputeInstances(nvmlGpuInstance_t instance, unsigned int number,
  nvmlComputeInstance_t *instances, unsigned int *count) {
  struct call call;
  struct target target;
  nvmlReturn_t result = enter(&call, __func__, READS_PRIVILEGED, true);
  if (result == NVML_SUCCESS && (instances == NULL || count == NULL)) result = NVML_ERROR_INVALID_ARGUMENT;
  if (result == NVML_SUCCESS) result = compute_profile(&target, instance, number);
  if (result == NVML_SUCCESS) {
    *count = 0;
    for (unsigned int i = 0; i < target.gpu->ci_count && result == NVML_SUCCESS; i++) {
      const struct compute_instance *ci = &target.gpu->ci[i];
      if (ci->parent == target.gi->serial && ci->number == number)
        result = give(&instances[(*count)++], handle_of(COMPUTE_INSTANCE, target.gpu, ci->serial));
    }
  }
  return leave(&call, result);
}

API nvmlReturn_t nvmlGpuInstanceGetComputeInstanceById(nvmlGpuInstance_t instance, unsigned int id,
  nvmlComputeInstance_t *found) {
  struct call call;
  struct target target;
  nvmlReturn_t result = enter(&call, __func__, READS_PRIVILEGED, true);
  if (result == NVML_SUCCESS && (found == NULL || !resolve(&target, instance, GPU_INSTANCE)))
    result = NVML_ERROR_INVALID_ARGUMENT;
  if (result == NVML_SUCCESS) {
    result = NVML_ERROR_NOT_FOUND;
    for (unsigned int i = 0; i < target.gpu->ci_count; i++) {
      const struct compute_instance *ci = &target.gpu->ci[i];
      if (ci->parent == target.gi->serial && ci->id == id)
        result = give(found, handle_of(COMPUTE_INSTANCE, target.gpu, ci->serial));
    }
  }
  return leave(&call, result);
}

API nvmlReturn_t nvmlComputeInstanceGetInfo_v2(nvmlComputeInstance_t instance, nvmlComputeInstanceInfo_t *info) {
  struct call call;
  struct target target;
  nvmlReturn_t result = enter(&call, __func__, READS, true);
  if (result == NVML_SUCCESS && (info == NULL || !resolve(&target, instance, COMPUTE_INSTANCE)))
    result = NVML_ERROR_INVALID_ARGUMENT;
  if (result == NVML_SUCCESS)
    *info = (nvmlComputeInstanceInfo_t){
      .device = handle_of(GPU, target.gpu, 0),
      .gpuInstance = handle_of(GPU_INSTANCE, target.gpu, target.gi->serial),
      .id = target.ci->id,
      .profileId = target.ci->number,
      .placement = {.start = target.ci->start, .size = compute_slices[target.ci->number]},
    };
  return leave(&call, result);
}
