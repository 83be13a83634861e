/* The job of the peers: appends one byte to FILE, so that its size says how many have run. */
#include <fcntl.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    if (argc != 2)
        return 64;
    int file = open(argv[1], O_WRONLY | O_APPEND | O_CREAT, 0600);
    return write(file, "+", 1) != 1;
}
