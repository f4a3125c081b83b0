// What a shim needs of the C library, in the versions of glibc 2.28: so that the library which is built on a
// new system loads in a container with an old one. Without this, each name binds to the newest version that
// the system of the build has.
//
// Linked into a shim as an object, this file's definitions come before the C library's for everything in it,
// the static libraries included, and are hidden from the program. Most pass on to an older version of the
// same function; what is younger than 2.28 is made from what is not. A test holds the result to 2.28.
#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <pthread.h>
#include <signal.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>

#include <cstddef>
#include <cstdint>

#if defined(__x86_64__)
#define TULLE_FIRST_VERSION "GLIBC_2.2.5"
#define TULLE_SETNAME_VERSION "GLIBC_2.12"
#define TULLE_STAT_LAYOUT 1  // which struct stat __xstat is to fill in: the only one there is
#elif defined(__aarch64__)
#define TULLE_FIRST_VERSION "GLIBC_2.17"
#define TULLE_SETNAME_VERSION "GLIBC_2.17"
#define TULLE_STAT_LAYOUT 0
#else
#error "say which versions the functions below first had on this architecture"
#endif

// A function of ours with the C library's name; the C++ name keeps clear of its declarations.
#define TULLE_DEFINE(result, name, parameters)                                                        \
  extern "C" __attribute__((visibility("hidden"))) result TulleLibc_##name parameters __asm__(#name); \
  result TulleLibc_##name parameters

// The C library's own, in one version.
#define TULLE_IMPORT(result, name, parameters, version)    \
  extern "C" result tulle_libc_##name parameters noexcept; \
  __asm__(".symver tulle_libc_" #name "," #name "@" version)

#define TULLE_PASS_ON(result, name, parameters, arguments, version) \
  TULLE_IMPORT(result, name, parameters, version);                  \
  TULLE_DEFINE(result, name, parameters) { return tulle_libc_##name arguments; }

// --- threads: in a library of their own until 2.34

TULLE_PASS_ON(int, pthread_create,
              (pthread_t * thread, const pthread_attr_t* attributes, void* (*run)(void*), void* argument),
              (thread, attributes, run, argument), TULLE_FIRST_VERSION)
TULLE_PASS_ON(int, pthread_join, (pthread_t thread, void** result), (thread, result), TULLE_FIRST_VERSION)
TULLE_PASS_ON(int, pthread_detach, (pthread_t thread), (thread), TULLE_FIRST_VERSION)
TULLE_PASS_ON(int, pthread_attr_setstacksize, (pthread_attr_t * attributes, size_t size), (attributes, size),
              TULLE_FIRST_VERSION)
TULLE_PASS_ON(int, pthread_setname_np, (pthread_t thread, const char* name), (thread, name),
              TULLE_SETNAME_VERSION)
TULLE_PASS_ON(int, pthread_sigmask, (int how, const sigset_t* set, sigset_t* before), (how, set, before),
              TULLE_FIRST_VERSION)
TULLE_PASS_ON(int, pthread_once, (pthread_once_t * once, void (*run)()), (once, run), TULLE_FIRST_VERSION)
TULLE_PASS_ON(int, pthread_key_create, (pthread_key_t * key, void (*destroy)(void*)), (key, destroy),
              TULLE_FIRST_VERSION)
TULLE_PASS_ON(int, pthread_key_delete, (pthread_key_t key), (key), TULLE_FIRST_VERSION)
TULLE_PASS_ON(void*, pthread_getspecific, (pthread_key_t key), (key), TULLE_FIRST_VERSION)
TULLE_PASS_ON(int, pthread_setspecific, (pthread_key_t key, const void* value), (key, value),
              TULLE_FIRST_VERSION)
TULLE_PASS_ON(int, pthread_mutex_trylock, (pthread_mutex_t * mutex), (mutex), TULLE_FIRST_VERSION)
TULLE_PASS_ON(int, pthread_rwlock_init, (pthread_rwlock_t * lock, const pthread_rwlockattr_t* attributes),
              (lock, attributes), TULLE_FIRST_VERSION)
TULLE_PASS_ON(int, pthread_rwlock_destroy, (pthread_rwlock_t * lock), (lock), TULLE_FIRST_VERSION)
TULLE_PASS_ON(int, pthread_rwlock_rdlock, (pthread_rwlock_t * lock), (lock), TULLE_FIRST_VERSION)
TULLE_PASS_ON(int, pthread_rwlock_wrlock, (pthread_rwlock_t * lock), (lock), TULLE_FIRST_VERSION)
TULLE_PASS_ON(int, pthread_rwlock_unlock, (pthread_rwlock_t * lock), (lock), TULLE_FIRST_VERSION)

// libstdc++ asks by this (weak) name whether there are threads at all.
TULLE_DEFINE(int, __pthread_key_create, (pthread_key_t * key, void (*destroy)(void*))) {
  return tulle_libc_pthread_key_create(key, destroy);
}

// Since 2.32 it says that no thread was ever started; libstdc++ then counts references without atomics.
extern "C"
    __attribute__((visibility("hidden"))) char TulleLibc_single_threaded __asm__("__libc_single_threaded");
char TulleLibc_single_threaded = 0;

// --- the dynamic loader: likewise

TULLE_PASS_ON(void*, dlopen, (const char* name, int flags), (name, flags), TULLE_FIRST_VERSION)
TULLE_PASS_ON(int, dlclose, (void* library), (library), TULLE_FIRST_VERSION)
TULLE_PASS_ON(void*, dlsym, (void* library, const char* name), (library, name), TULLE_FIRST_VERSION)
TULLE_PASS_ON(char*, dlerror, (), (), TULLE_FIRST_VERSION)
TULLE_PASS_ON(int, dladdr, (const void* address, void* info), (address, info), TULLE_FIRST_VERSION)

// Since 2.30. Where it is missing a wait for the monotonic clock becomes one for the clock of the day, which
// somebody may set meanwhile: who waits wakes early or late then, and looks at the clock again.
TULLE_DEFINE(int, pthread_cond_clockwait,
             (pthread_cond_t * condition, pthread_mutex_t* mutex, clockid_t clock, const timespec* until)) {
  using Wait = int(pthread_cond_t*, pthread_mutex_t*, clockid_t, const timespec*);
  static Wait* const native =
      reinterpret_cast<Wait*>(tulle_libc_dlsym(RTLD_DEFAULT, "pthread_cond_clockwait"));
  if (native != nullptr) return native(condition, mutex, clock, until);
  timespec now, today;
  clock_gettime(clock, &now);
  clock_gettime(CLOCK_REALTIME, &today);
  constexpr std::int64_t kSecond = 1'000'000'000;
  const auto in_ns = [](const timespec& t) { return t.tv_sec * kSecond + t.tv_nsec; };
  const std::int64_t at = in_ns(today) + in_ns(*until) - in_ns(now);
  const timespec then = {at / kSecond, at % kSecond};
  return pthread_cond_timedwait(condition, mutex, &then);
}

// Since 2.35: where the unwinder finds the tables of the code at `address`. -1: nowhere.
TULLE_DEFINE(int, _dl_find_object, (void* address, dl_find_object* result)) {
  struct Search {
    std::uintptr_t address;
    dl_find_object* result;
  } search = {reinterpret_cast<std::uintptr_t>(address), result};
  const auto look = [](dl_phdr_info* object, std::size_t, void* argument) -> int {
    const Search& s = *static_cast<Search*>(argument);
    const ElfW(Phdr)* code = nullptr;
    const ElfW(Phdr)* tables = nullptr;
    for (const ElfW(Phdr)* header = object->dlpi_phdr; header != object->dlpi_phdr + object->dlpi_phnum;
         ++header) {
      const std::uintptr_t begin = object->dlpi_addr + header->p_vaddr;
      if (header->p_type == PT_LOAD && s.address - begin < header->p_memsz) code = header;
      if (header->p_type == PT_GNU_EH_FRAME) tables = header;
    }
    if (code == nullptr || tables == nullptr) return 0;
    const std::uintptr_t begin = object->dlpi_addr + code->p_vaddr;
    *s.result = {};
    s.result->dlfo_map_start = reinterpret_cast<void*>(begin);
    s.result->dlfo_map_end = reinterpret_cast<void*>(begin + code->p_memsz);
    s.result->dlfo_eh_frame = reinterpret_cast<void*>(object->dlpi_addr + tables->p_vaddr);
    return 1;
  };
  return dl_iterate_phdr(look, &search) == 1 ? 0 : -1;
}

// --- files: since 2.33 by these names

TULLE_IMPORT(int, __xstat, (int layout, const char* path, struct stat* out), TULLE_FIRST_VERSION);
TULLE_IMPORT(int, __fxstat, (int layout, int fd, struct stat* out), TULLE_FIRST_VERSION);
TULLE_DEFINE(int, stat, (const char* path, struct stat* out)) {
  return tulle_libc___xstat(TULLE_STAT_LAYOUT, path, out);
}
TULLE_DEFINE(int, fstat, (int fd, struct stat* out)) {
  return tulle_libc___fxstat(TULLE_STAT_LAYOUT, fd, out);
}
// On 64-bit systems the two structs are one.
TULLE_DEFINE(int, fstat64, (int fd, struct stat* out)) {
  return tulle_libc___fxstat(TULLE_STAT_LAYOUT, fd, out);
}

// Since 2.36; libstdc++'s random_device, which cannot fail, calls it.
TULLE_DEFINE(std::uint32_t, arc4random, ()) {
  std::uint32_t number = 0;
  while (getrandom(&number, sizeof number, 0) != static_cast<ssize_t>(sizeof number)) {
  }
  return number;
}
