/*
 * A standard input or output that was closed when the program was started stays unusable: every read
 * and write fails with EBADF, and no file that is opened later gets its number.
 *
 * Rust's start opens /dev/null for reading and writing in such a place, and then nobody can tell a closed
 * standard output from one that somebody has sent to /dev/null on purpose. So this runs before it, as
 * a constructor, and opens /dev/null the wrong way round, as the GNU C library does for set-user-ID programs
 * (csu/check_fds.c). Standard error is left to Rust: what nobody reads may be thrown away.
 */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

__attribute__((constructor)) static void keep_closed_descriptors_unusable(void)
{
    const int saved = errno;
    for (int number = STDIN_FILENO; number <= STDOUT_FILENO; number++) {
        if (fcntl(number, F_GETFD) != -1 || errno != EBADF)
            continue;
        /* The lowest free number is taken. */
        const int opened = open("/dev/null", number == STDIN_FILENO ? O_WRONLY : O_RDONLY);
        if (opened != number && opened != -1)
            close(opened);
    }
    errno = saved;
}
