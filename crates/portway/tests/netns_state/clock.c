/* A wall clock that a file moves: CLOCK_REALTIME is what it is, and as many seconds more as the first number of the file
 * FILE_OF_SECONDS says at this moment. All other clocks are the kernel's. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static int (*real_gettime)(clockid_t, struct timespec *);
static volatile const long *seconds;

__attribute__((constructor)) static void start(void)
{
    real_gettime = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int fd = open(FILE_OF_SECONDS, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    void *page = mmap(0, sizeof(long), PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (page != MAP_FAILED)
        seconds = page;
}

int clock_gettime(clockid_t id, struct timespec *now)
{
    if (!real_gettime)
        start();
    int result = real_gettime(id, now);
    if (result == 0 && seconds && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE))
        now->tv_sec += *seconds;
    return result;
}
