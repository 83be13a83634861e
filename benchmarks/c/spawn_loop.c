/* The yardstick of throughput: spawn and reap COUNT processes, WIDTH at a time, nothing else.
   Prints the seconds from the first spawn to the last reap. */
#define _GNU_SOURCE
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>

extern char **environ;

int main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "usage: spawn_loop COUNT WIDTH PROGRAM\n");
        return 64;
    }
    int count = atoi(argv[1]), width = atoi(argv[2]), started = 0, running = 0;
    char *child[] = {argv[3], NULL};
    struct timespec begin, end;

    clock_gettime(CLOCK_MONOTONIC, &begin);
    while (started < count || running > 0) {
        if (started < count && running < width) {
            pid_t pid;
            if (posix_spawn(&pid, argv[3], NULL, NULL, child, environ) != 0) {
                perror("posix_spawn");
                return 71;
            }
            started++, running++;
        } else if (wait(NULL) > 0) {
            running--;
        }
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    printf("%.6f\n", (double)(end.tv_sec - begin.tv_sec) + (double)(end.tv_nsec - begin.tv_nsec) / 1e9);
    return 0;
}
