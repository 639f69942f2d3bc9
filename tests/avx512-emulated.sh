#!/usr/bin/env bash
# Runs checkkern at the level avx512 where no CPU has it: on the CPU that bochs emulates, under a
# Debian kernel whose only program it is. Takes about five minutes; not part of the default tests.
# Usage: tests/avx512-emulated.sh [TYPE | --products]
# LQ_EMULATED_CPU names another CPU model of bochs; of 2.7, corei7_icelake_u hangs in the kernel.
# Needs Debian's bochs, isolinux, syslinux-common, genisoimage and cpio; the kernel comes with
# `apt-get download` and is not installed.
set -euo pipefail

source_dir=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

skip()
{
    echo "SKIP avx512-emulated: $1"
    exit 0
}

for tool in bochs genisoimage cpio dpkg-deb cmake; do
    command -v $tool > /dev/null || skip "$tool is missing (apt-get install bochs isolinux syslinux-common genisoimage cpio)"
done
isolinux=/usr/lib/ISOLINUX/isolinux.bin
ldlinux=/usr/lib/syslinux/modules/bios/ldlinux.c32
for file in $isolinux $ldlinux; do
    [ -e $file ] || skip "$file is missing (apt-get install isolinux syslinux-common)"
done

cd "$work"
kernel=$(apt-cache depends linux-image-cloud-amd64 2> /dev/null | sed -n 's/.*Depends: //p' | head -1)
[ -n "$kernel" ] || skip "the package linux-image-cloud-amd64 is not known (apt-get update)"
apt-get download "$kernel" > apt.log 2>&1 || skip "cannot download $kernel"
dpkg-deb -x ./*.deb kernel
mkdir -p iso/isolinux root/dev
cp kernel/boot/vmlinuz-* iso/vmlinuz
cp $isolinux $ldlinux iso/isolinux/

# Two instructions are replaced, value by value, because bochs 2.7 gets them wrong: VCVTPS2PH rounds
# some halves differently (the AVX2 kernels, right on real CPUs, differ there too), and gathers with
# an index register above 15 are refused.
cat > shim.h << 'SHIM'
#if defined(__AVX2__)
#include <immintrin.h>
#include <stdint.h>
extern uint16_t lq_f32_to_f16(float value);
#undef _mm256_cvtps_ph
#undef _mm512_cvtps_ph
static inline __m128i shim_half8(__m256 values)
{
    float in[8];
    uint16_t out[8];
    _mm256_storeu_ps(in, values);
    for (int i = 0; i < 8; i++) {
        out[i] = lq_f32_to_f16(in[i]);
    }
    return _mm_loadu_si128((const __m128i *)(const void *)out);
}
#define _mm256_cvtps_ph(values, rounding) shim_half8(values)
#if defined(__AVX512F__)
static inline __m256i shim_half16(__m512 values)
{
    float in[16];
    uint16_t out[16];
    _mm512_storeu_ps(in, values);
    for (int i = 0; i < 16; i++) {
        out[i] = lq_f32_to_f16(in[i]);
    }
    return _mm256_loadu_si256((const __m256i *)(const void *)out);
}
#define _mm512_cvtps_ph(values, rounding) shim_half16(values)
#undef _mm512_i32gather_epi32
#undef _mm512_i32gather_ps
static inline __m512i shim_gather(__m512i at, const void *table)
{
    int32_t index[16];
    int32_t out[16];
    _mm512_storeu_si512(index, at);
    for (int i = 0; i < 16; i++) {
        out[i] = ((const int32_t *)table)[index[i]];
    }
    return _mm512_loadu_si512(out);
}
#define _mm512_i32gather_epi32(index, table, scale) shim_gather(index, table)
#define _mm512_i32gather_ps(index, table, scale) _mm512_castsi512_ps(shim_gather(index, table))
#endif
#endif
SHIM
cmake -S "$source_dir" -B build -DLQ_WERROR=OFF -DCMAKE_C_FLAGS="-w -include $work/shim.h" \
    -DCMAKE_EXE_LINKER_FLAGS=-static > cmake.log
cmake --build build -j2 --target checkkern >> cmake.log 2>&1 || { cat cmake.log; exit 1; }
find build -name checkkern -type f -exec cp {} root/checkkern \;

cat > init.c << 'INIT'
#include <fcntl.h>
#include <stdio.h>
#include <sys/io.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    int console = open("/dev/console", O_RDWR);
    for (int fd = 0; fd < 3; fd++) {
        dup2(console, fd);
    }
    int status = -1;
    if (fork() == 0) {
        execl("/checkkern", "checkkern", "--quick", "--level", "avx512", TYPE (char *)0);
        _exit(127);
    }
    wait(&status);
    printf("checkkern exit %d\n", WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
    fflush(stdout);
    tcdrain(1);
    sleep(1);
    /* The emulator stops at this word on this port. */
    iopl(3);
    for (const char *c = "Shutdown"; *c != 0; c++) {
        outb((unsigned char)*c, 0x8900);
    }
    return 0;
}
INIT
cc -O1 -static -D"TYPE=${1:+\"$1\",}" -o root/init init.c
mknod root/dev/console c 5 1 2> /dev/null || skip "mknod needs root"
(cd root && find . | cpio --quiet -o -H newc -R 0:0 | gzip -1 > ../iso/initrd.gz)
# bochs reports the size of the XSAVE area so that Linux gives AVX up, unless XSAVEC (321) and XSAVES
# are out of sight.
cat > iso/isolinux/isolinux.cfg << 'CONFIG'
default run
prompt 0
label run
 kernel /vmlinuz
 initrd /initrd.gz
 append console=ttyS0,115200 noxsaves clearcpuid=321 nokaslr mitigations=off nosmp noapic tsc=reliable panic=-1 reboot=t ignore_loglevel
CONFIG
genisoimage -quiet -o boot.iso -b isolinux/isolinux.bin -c isolinux/boot.cat -no-emul-boot \
    -boot-load-size 4 -boot-info-table iso
cat > bochsrc << BOCHS
config_interface: textconfig
display_library: rfb, options="timeout=0"
plugin_ctrl: unmapped=1, biosdev=1, speaker=0, extfpuirq=1, parallel=0, serial=1, gameport=0
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest
cpu: model=${LQ_EMULATED_CPU:-corei7_skylake_x}, count=1, ips=100000000, reset_on_triple_fault=0
memory: guest=256, host=256
ata0: enabled=1
ata0-master: type=cdrom, path=boot.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=serial.txt
clock: sync=none
log: bochs.log
panic: action=fatal
error: action=ignore
info: action=ignore
BOCHS
# Debian builds bochs with its debugger, which waits for a command first.
echo c > commands
timeout "${LQ_EMULATION_SECONDS:-1800}" bochs -q -f bochsrc -rc commands > bochs.out 2>&1 < /dev/null || true

grep -a -E '^avx512|checkkern|checked' serial.txt || { tail -20 serial.txt bochs.out; exit 1; }
grep -a -q 'checkkern exit 0' serial.txt
