# SPDX-License-Identifier: Apache-2.0
#
# Completion of dune-sandbox for bash.

# Number of values of an option, 0 to 2; 3: no option.
__dune_sandbox_values() {
	case $1 in
	--bind | --ro-bind | --bind-try | --ro-bind-try | --symlink | --setenv) echo 2 ;;
	--tmpfs | --dev | --proc | --dir | --unsetenv | --chdir) echo 1 ;;
	--seccomp | --memory | --tasks | --timeout | --allow-connect | --learn) echo 1 ;;
	--clearenv | --unshare-net | --die-with-parent | --new-session | --log-denied) echo 0 ;;
	--explain | --stats | --help | --version) echo 0 ;;
	*) echo 3 ;;
	esac
}

_dune_sandbox() {
	local current=${COMP_WORDS[COMP_CWORD]} word=1 option= values place=0

	# Which option's value is completed, if any.
	while [ $word -lt "$COMP_CWORD" ]; do
		option=${COMP_WORDS[word]}
		values=$(__dune_sandbox_values "$option")
		if [ "$option" = -- ] || [ "$values" = 3 ]; then
			# PROGRAM: its own completion, or files.
			[ "$option" = -- ] && word=$((word + 1))
			if [ $word -lt "$COMP_CWORD" ] && declare -F _command_offset > /dev/null; then
				_command_offset $word
			elif [ $word -lt "$COMP_CWORD" ]; then
				mapfile -t COMPREPLY < <(compgen -f -- "$current")
			else
				mapfile -t COMPREPLY < <(compgen -c -- "$current")
			fi
			return
		fi
		place=$((COMP_CWORD - word))
		[ $place -le "$values" ] && break
		word=$((word + 1 + values))
		option=
	done

	case $option in
	--bind | --ro-bind | --bind-try | --ro-bind-try | --seccomp | --learn)
		mapfile -t COMPREPLY < <(compgen -f -- "$current")
		compopt -o filenames 2> /dev/null
		;;
	--tmpfs | --dev | --proc | --dir | --chdir | --symlink)
		mapfile -t COMPREPLY < <(compgen -d -- "$current")
		compopt -o filenames 2> /dev/null
		;;
	--setenv | --unsetenv)
		[ $place = 1 ] && mapfile -t COMPREPLY < <(compgen -v -- "$current")
		;;
	--memory | --tasks | --timeout | --allow-connect) ;;
	*)
		if [[ $current == -* ]]; then
			mapfile -t COMPREPLY < <(compgen -W '--bind --ro-bind --bind-try --ro-bind-try
				--tmpfs --dev --proc --dir --symlink --chdir --setenv --unsetenv --clearenv
				--seccomp --unshare-net --allow-connect --memory --tasks --timeout --die-with-parent
				--new-session --log-denied --learn --explain --stats --help --version' -- "$current")
		else
			mapfile -t COMPREPLY < <(compgen -c -- "$current")
		fi
		;;
	esac
}

complete -F _dune_sandbox dune-sandbox
