# Makes the folders that are not there, and says which. `sh -s -- make LIB FOLDER…`: parents first; after them LIB, the
# program's own, and in it `made`: which of the others it made, written once all are there. `check` only says.
set -eu
how=$1 lib=$2
shift 2
umask 022
made=
for folder in "$@" "$lib"; do
    [ -d "$folder" ] && continue
    [ "$how" = check ] || mkdir -- "$folder"
    printf '%s\n' "$folder"
    [ "$folder" = "$lib" ] || made="$made$folder
"
done
[ "$how" = check ] && exit
printf %s "$made" >"$lib/made.new"
mv -- "$lib/made.new" "$lib/made"
